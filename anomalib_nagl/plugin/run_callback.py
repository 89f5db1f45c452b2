"""Callbacks of one model, which a trainer may outlive."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback


class RunCallback(Callback):
    """A part of a model that leaves its trainer at the end of every run.

    Lightning keeps callbacks that a model configured, though the next run may be of another model; the same model
    configures them anew.
    """

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave after a run."""
        del pl_module, stage
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave after a run that failed, which has no teardown."""
        del pl_module, exception
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        # Another list, because Lightning is walking through this one.
        listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its callback connector
        trainer.callbacks = [callback for callback in listed if callback is not self]  # type: ignore[attr-defined]
