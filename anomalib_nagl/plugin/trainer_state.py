"""What a fit changes in Lightning's trainer, which may be asked for other fits before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


@dataclass(frozen=True)
class TrainerLimits:
    """How long a trainer trains, and how often it validates."""

    max_epochs: int | None
    train_batches: int | float
    validation_epochs: int | None
    validation_batches: int | float

    @classmethod
    def of(cls, trainer: Trainer) -> TrainerLimits:
        """The limits of a trainer as they are."""
        return cls(
            trainer.fit_loop.max_epochs,
            trainer.limit_train_batches,
            trainer.check_val_every_n_epoch,
            trainer.limit_val_batches,
        )

    def restore(self, trainer: Trainer) -> None:
        """Give a trainer these limits."""
        trainer.fit_loop.max_epochs = self.max_epochs
        trainer.limit_train_batches = self.train_batches
        trainer.check_val_every_n_epoch = self.validation_epochs
        trainer.limit_val_batches = self.validation_batches


def start_over(trainer: Trainer) -> None:
    """Let a trainer count epochs and steps from 0: one that has fitted before would do nothing more."""
    loop = trainer.fit_loop
    loop.epoch_progress.reset()
    loop.epoch_loop.batch_progress.reset()
    loop.epoch_loop.scheduler_progress.reset()
    loop.epoch_loop.automatic_optimization.optim_progress.reset()
    loop.epoch_loop._batches_that_stepped = 0
    for callback in _model_checkpoints(trainer):
        callback._last_global_step_saved = 0  # a step of an earlier fit


def has_saved(trainer: Trainer) -> bool:
    """Whether a model was saved at the step at which a trainer is: Lightning saves none a second time."""
    return any(callback._last_global_step_saved == trainer.global_step for callback in _model_checkpoints(trainer))


def save_finished(trainer: Trainer) -> None:
    """Save the model as it is in the place of what was saved of this fit, or where it would be."""
    for callback in _model_checkpoints(trainer):
        if callback.best_model_path:
            trainer.save_checkpoint(callback.best_model_path, callback.save_weights_only)
        elif callback.monitor is None and callback.save_top_k:
            callback._save_topk_checkpoint(trainer, callback._monitor_candidates(trainer))


def _model_checkpoints(trainer: Trainer) -> Iterator[ModelCheckpoint]:
    quick = getattr(trainer, "fast_dev_run", False)  # set by its debugging connector
    listed: list[Any] = [] if quick else trainer.checkpoint_callbacks
    return (callback for callback in listed if isinstance(callback, ModelCheckpoint))
