"""anomalib's checkpoint reader with errors for people.

Apart from ``checkpoints``: importing anomalib's engine while the plugin is being registered would go in a circle.
"""

from __future__ import annotations

from typing import Any

from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO

from anomalib_nagl.plugin.checkpoints import READ_ERRORS, check_checkpoint, unreadable


class NaglCheckpointIO(AnomalibCheckpointIO):
    """Reads plain data only, and says so when a file is something else.

    ``finished`` maps a checkpoint that a training was resumed from to the one it ended with: ``anomalib train
    --ckpt_path`` tests what it was given, which had no references yet.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.finished: dict[str, str] = {}

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; ValueError if the file is none, or not one of this model."""
        path = self.finished.get(str(path), path)
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except READ_ERRORS as error:
            raise ValueError(unreadable(path, error)) from error
        check_checkpoint(checkpoint, path)
        return dict(checkpoint)
