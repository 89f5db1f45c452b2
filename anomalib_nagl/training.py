"""Training glue: episodes or tokens to losses, and how long a training lasts."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn

from anomalib_nagl.adaptation import Adaptation
from anomalib_nagl.checkpoints import check_backbone
from anomalib_nagl.data.tokens import TokenBatch, TokenEpisodes, encode_pictures
from anomalib_nagl.losses import NaglLoss
from anomalib_nagl.optimization import check_limits, published_optimizer
from anomalib_nagl.pre_processing import NaglPreProcessor


class HeadTraining(Adaptation):
    """The part of ``Nagl`` that trains a head on a source, or skips training with a trained one."""

    loss: NaglLoss
    epochs: int
    learning_rate: float
    token_cache: bool
    _tokens: Tensor | None
    _head_backbone: str | None

    def on_fit_start(self) -> None:
        """Fetch the backbone's weights, set the length of training, and plan to validate once, on the last epoch.

        References, thresholds and score ranges belong to the finished head; the target is not looked at before.
        """
        self.model.encoder.ensure_weights()
        check_backbone(self._head_backbone, self.model.encoder.fingerprint())
        adapts = self.reference_mode == "references"
        if not adapts:
            check_limits(self.trainer)
        limit, planned = self.trainer.max_epochs, 1 if adapts else self.epochs
        epochs = planned if limit is None or limit < 0 else min(planned, limit)
        self.trainer.fit_loop.max_epochs = epochs
        if adapts:
            self.trainer.limit_train_batches = 1
        elif self.trainer.check_val_every_n_epoch == 1:
            self.trainer.check_val_every_n_epoch = epochs

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with two learning-rate steps; nothing to optimise with a trained head."""
        if self.reference_mode == "references":
            return None
        return published_optimizer(self.model.head, self.learning_rate, self.loss.quirks.decay_all)

    @property
    def uses_tokens(self) -> bool:
        """Whether training reads tokens instead of pictures, which a pre-processor of somebody else cannot serve."""
        return self.token_cache and isinstance(self.pre_processor, NaglPreProcessor)

    def on_train_start(self) -> None:
        """Encode every picture of the source once."""
        episodes = getattr(self.trainer.train_dataloader, "dataset", None)
        if isinstance(episodes, TokenEpisodes):
            rows, cols = self.model.encoder.grid
            self._tokens = encode_pictures(
                episodes.paths,
                getattr(self.pre_processor, "transform", nn.Identity()),
                lambda images: self.model.encode(images.to(self.device)),
                (rows * cols, self.model.encoder.dim),
                num_workers=getattr(getattr(self.trainer, "datamodule", None), "num_workers", 0),
            )

    def on_train_end(self) -> None:
        """Let the tokens go."""
        self._tokens = None

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Loss of an ``EpisodeBatch`` or ``TokenBatch``; nothing with a trained head."""
        del batch_idx
        if self.reference_mode == "references":
            return torch.zeros((), device=self.device, requires_grad=True)
        if isinstance(batch, TokenBatch):
            tokens = [self._look_up(rows) for rows in batch[:3]]
            maps = self.model.head(*tokens, batch.abnormal_mask, self.model.encoder.grid)
            query_mask, label = batch.query_mask, batch.label
        else:
            # anomalib's pre-processor has prepared the query, and knows nothing of references.
            transform = getattr(self.pre_processor, "transform", None) or nn.Identity()
            references = transform(batch.ref_normal), transform(batch.ref_abnormal)
            maps = self.model.episode(batch.image, *references, batch.ref_mask)
            query_mask, label = batch.gt_mask, batch.gt_label
        losses = self.loss(maps, query_mask, label, self.model.encoder.grid)
        for name, value in losses._asdict().items():
            shown = name == "total"
            self.log(f"train_{name}", value, on_epoch=True, on_step=False, prog_bar=shown, batch_size=len(label))
        return losses.total

    def _look_up(self, rows: Tensor) -> Tensor:
        if self._tokens is None:
            raise RuntimeError("found a batch of tokens before the pictures were encoded: train through the Engine")
        return self._tokens[rows.cpu()].to(self.device, torch.float32)

    def on_train_epoch_end(self) -> None:
        """Note that the head has learned something."""
        self.head_trained = self.head_trained or self.reference_mode == "episodes"
