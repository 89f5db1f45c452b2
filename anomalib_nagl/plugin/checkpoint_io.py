"""anomalib's checkpoint reader with errors for people.

Apart from ``checkpoints``: importing anomalib's engine while the plugin is being registered would go in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from anomalib_nagl.plugin.checkpoints import READ_ERRORS, check_checkpoint, unreadable


class NaglCheckpointIO(AnomalibCheckpointIO):
    """Reads plain data only, and says so when a file is something else."""

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint; ValueError if the file is none, or not one of this model.

        It is read into main memory, so that one that was written with a GPU can be used without; the strategy moves
        weights and states of optimizers to the device of the run.
        """
        try:
            checkpoint = super().load_checkpoint(path, map_location or "cpu", weights_only is not False)
        except READ_ERRORS as error:
            raise ValueError(unreadable(path, error)) from error
        check_checkpoint(checkpoint, path)
        return dict(checkpoint)


def explain_errors(strategy: Strategy, safe_globals: Sequence[Any]) -> None:
    """Put our reader in the place of anomalib's or Lightning's own; one that a person chose stays."""
    if type(strategy.checkpoint_io) in (AnomalibCheckpointIO, TorchCheckpointIO):
        strategy.checkpoint_io = NaglCheckpointIO(extra_safe_globals=safe_globals)
