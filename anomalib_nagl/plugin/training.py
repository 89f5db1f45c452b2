"""Training glue: episodes or tokens to losses, validation on the source, and how a training ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn

from anomalib_nagl.core.functional import anomaly_map, image_score
from anomalib_nagl.core.head import NaglMaps
from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.plugin.adaptation import Adaptation
from anomalib_nagl.plugin.checkpoints import check_backbone
from anomalib_nagl.plugin.epoch_selection import KeptHead, ScoredEpisodes, validation_scores
from anomalib_nagl.plugin.optimization import published_optimizer
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.plugin.reference_datamodule import ReferenceDataModule
from anomalib_nagl.plugin.token_cache import Processes, TokenBatch, TokenEpisodes, TokenTable, encode_pictures
from anomalib_nagl.plugin.token_store import PRECISIONS, FileStore, MemoryStore, recipe_hash

logger = logging.getLogger(__name__)


class EpochCheckpoint(Checkpoint):
    """Saves a training after every epoch, to resume from: ``last.ckpt``, and ``best.ckpt`` when its head is kept."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both files in one step each; Lightning's own callback writes no last one while the best stays."""
        folder = Path(trainer.default_root_dir) / "weights" / "lightning"
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        if isinstance(pl_module, HeadTraining) and pl_module.kept.epoch == trainer.current_epoch:
            trainer.save_checkpoint(folder / "best.ckpt", weights_only=False)


class HeadTraining(Adaptation):
    """The part of ``Nagl`` that trains a head on a source, or skips training with a trained one."""

    loss: NaglLoss
    kept: KeptHead
    epochs: int
    learning_rate: float
    token_cache: bool
    token_cache_dir: str | None
    token_precision: str
    _tokens: TokenTable | None
    _head_backbone: str | None

    @property
    def selection(self) -> str:
        """The rule that decides which epoch's head is kept."""
        return self.kept.rule

    @property
    def _trains(self) -> bool:
        return self.reference_mode == "episodes"

    @property
    def uses_tokens(self) -> bool:
        """Whether training reads tokens instead of pictures, which a pre-processor of somebody else cannot serve."""
        return self.token_cache and isinstance(self.pre_processor, NaglPreProcessor)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Anomalib's, and one that saves a training after every epoch."""
        listed: Any = super().configure_callbacks()
        saves = self._fitting and self._trains and self.trainer.checkpoint_callbacks
        return [*listed, *([EpochCheckpoint()] if saves else [])]

    def on_fit_start(self) -> None:
        """Fetch the backbone's weights and set the length of training.

        References, thresholds and score ranges belong to the finished head, so the target is looked at once, after
        training: ``on_fit_end`` does that.
        """
        self.model.encoder.ensure_weights()
        check_backbone(self._head_backbone, self.model.encoder.fingerprint())
        limit, planned = self.trainer.max_epochs, self.epochs if self._trains else 1
        self.trainer.fit_loop.max_epochs = planned if limit is None or limit < 0 else min(planned, limit)
        if not self._trains:
            self.trainer.limit_train_batches = 1
        elif self.trainer.check_val_every_n_epoch == 1:
            self.trainer.check_val_every_n_epoch = self.epochs + 1

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with two learning-rate steps; nothing to optimise with a trained head."""
        if not self._trains:
            return None
        return published_optimizer(self.model.head, self.learning_rate, self.loss.variant.decay_all)

    def on_train_start(self) -> None:
        """Encode every picture of the source once."""
        episodes = getattr(self.trainer.train_dataloader, "dataset", None)
        if not isinstance(episodes, TokenEpisodes):
            return
        encoder, strategy = self.model.encoder, self.trainer.strategy
        shape, dtype = (encoder.grid[0] * encoder.grid[1], encoder.dim), PRECISIONS[self.token_precision]
        if self.token_cache_dir is None:
            store: Any = partial(MemoryStore, shape=shape, dtype=dtype)
        else:
            recipe = recipe_hash(encoder.fingerprint(), self.pre_processor.config, dtype)
            store = partial(FileStore, self.token_cache_dir, recipe, shape=shape, dtype=dtype)
        self._tokens = encode_pictures(
            episodes.paths,
            self.pre_processor.transform,
            lambda images: self.model.encode(images.to(self.device)),
            store,
            Processes(
                self.global_rank,
                self.trainer.world_size,
                lambda part: strategy.reduce(part.to(strategy.root_device), reduce_op="sum"),
            ),
            getattr(self.trainer.datamodule, "num_workers", 0),  # type: ignore[attr-defined]
        )

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Loss of an ``EpisodeBatch`` or ``TokenBatch``; nothing with a trained head."""
        del batch_idx
        if not self._trains:
            return torch.zeros((), device=self.device, requires_grad=True)
        maps, query_mask, label = self._maps(batch)
        losses = self.loss(maps, query_mask, label, self.model.encoder.grid)
        for name, value in losses._asdict().items():
            shown = name == "total"
            self.log(
                f"train_{name}", value, on_epoch=True, on_step=False, prog_bar=shown, batch_size=len(label),
                sync_dist=True,
            )  # fmt: skip
        return losses.total

    def _maps(self, batch: Any) -> tuple[NaglMaps, Tensor, Tensor]:
        """Maps, query masks and labels of a batch of episodes; of pictures, the query is prepared already."""
        if isinstance(batch, TokenBatch):
            if self._tokens is None:
                raise RuntimeError("found a batch of tokens before pictures were encoded: train through the Engine")
            tokens = [self._tokens[rows.cpu()].to(self.device) for rows in batch[:3]]
            maps = self.model.head(*tokens, batch.abnormal_mask, self.model.encoder.grid)
            return maps, batch.query_mask, batch.label
        # anomalib's pre-processor prepares the query, and knows nothing of references.
        transform = getattr(self.pre_processor, "transform", None) or nn.Identity()
        references = transform(batch.ref_normal), transform(batch.ref_abnormal)
        return self.model.episode(batch.image, *references, batch.ref_mask), batch.gt_mask, batch.gt_label

    def on_train_epoch_end(self) -> None:
        """Note that the head has learned something, and how well it does on categories it was not trained on."""
        if not self._trains:
            return
        self.head_trained = True
        shown = {name: float(value) for name, value in self.trainer.callback_metrics.items() if "train_" in name}
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        loaders = data.validation_loaders(self.current_epoch) if isinstance(data, ReferenceDataModule) else {}
        if loaders:
            scores = validation_scores((self._scored(one) for one in loaders.values()), self.selection == "paper")
            self.kept.consider(self.current_epoch, scores, self.model.head)
            found = {"image_AUROC": scores.image, "pixel_AUROC": scores.pixel, "AUROC": scores.total}
            logged = {f"source_{name}": value for name, value in found.items()}
            self.log_dict({name: torch.tensor(value) for name, value in logged.items()}, prog_bar=True)
            shown.update(logged)
        if self.trainer.is_global_zero:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
            logger.info("Epoch %d: %s", self.current_epoch, listed)

    @torch.no_grad()
    def _scored(self, loader: Any) -> Iterator[ScoredEpisodes]:
        transform = getattr(self.pre_processor, "transform", None) or nn.Identity()
        for batch in loader:
            placed = self.transfer_batch_to_device(batch, self.device, 0)
            if not isinstance(placed, TokenBatch):
                placed.image = transform(placed.image)
            maps, mask, label = self._maps(placed)
            smoothed = anomaly_map(maps.score, self.model.smooth_down, self.model.smooth_right)[:, 0]
            yield ScoredEpisodes(image_score(maps.score).cpu(), smoothed.cpu(), mask.cpu(), label.cpu())

    def on_fit_end(self) -> None:
        """Finish a training: take the head that was kept, then references and thresholds of the target, and save.

        Here and not on the last epoch, because early stopping and a training that was killed after its last epoch have
        none; Lightning offers no other way to validate once, so its validation loop is run as its own training does.
        """
        self._tokens = None
        if not self._trains:
            return
        if self.kept.weights is not None:
            self.model.head.load_state_dict(self.kept.weights)
            logger.info("Keeping the head of epoch %d.", self.kept.epoch)
        elif self.selection != "last":
            logger.info("Keeping the head of the last epoch: no other was found better on held-out source categories.")
        self.trainer.validating = True
        self.trainer.fit_loop.epoch_loop.val_loop.run()
        self.trainer.training = True
        saved = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if self.trainer.ckpt_path is not None and saved:
            getattr(self.trainer.strategy.checkpoint_io, "finished", {})[str(self.trainer.ckpt_path)] = saved
