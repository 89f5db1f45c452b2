"""anomalib's checkpoint reader with errors for people.

Apart from ``checkpoints``: importing anomalib's engine while the plugin is being registered would go in a circle.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins.checkpoint_io import AnomalibCheckpointIO
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from anomalib_nagl.io.files import atomic_write
from anomalib_nagl.plugin.checkpoints import READ_ERRORS, check_checkpoint, unreadable


class NaglCheckpointIO(AnomalibCheckpointIO):
    """Reads plain data only, and says so when a file is something else; writes local files in one step."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; WriteError where a local one cannot be written.

        Lightning makes it in the system's folder for temporary files. From another file system it is copied, and a
        program that is killed meanwhile leaves half of it in the place of the last whole one.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        atomic_write(Path(path), lambda file: file.write(content.getbuffer()))

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
