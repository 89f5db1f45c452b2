"""Training a head: episodes or tokens to losses, validation on the source, and how a training ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomalib_nagl.core.functional import anomaly_map, image_score
from anomalib_nagl.core.head import NaglMaps
from anomalib_nagl.plugin.checkpoints import check_backbone
from anomalib_nagl.plugin.copied_ahead import EpisodeLoader, copied_ahead
from anomalib_nagl.plugin.epoch_selection import KeptHead, ScoredEpisodes, ValidationScores, validation_scores
from anomalib_nagl.plugin.fit_plan import ReferenceData, datamodule_of
from anomalib_nagl.plugin.interruption import tell_resume
from anomalib_nagl.plugin.pre_processing import transform_of
from anomalib_nagl.plugin.run_callback import RunCallback
from anomalib_nagl.plugin.token_cache import (
    PlacedTokens,
    Processes,
    TokenBatch,
    TokenEpisodes,
    TokenTable,
    encode_images,
)
from anomalib_nagl.plugin.token_store import PRECISIONS, FileStore, MemoryStore, recipe_hash
from anomalib_nagl.plugin.trainer_state import TrainerLimits, has_saved, save_finished, start_over

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

logger = logging.getLogger(__name__)


class EpochCheckpoint(RunCallback, Checkpoint):
    """Saves a training after every epoch, to resume from: ``last.ckpt``, and ``best.ckpt`` when its head is kept."""

    def __init__(self, kept: KeptHead) -> None:
        self.kept = kept

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write both files in one step each; Lightning's own callback writes no last one while the best stays."""
        del pl_module
        folder = Path(trainer.default_root_dir) / "weights" / "lightning"
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
        if self.kept.epoch == trainer.current_epoch:
            trainer.save_checkpoint(folder / "best.ckpt", weights_only=False)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say after an interrupt how the training goes on."""
        super().on_exception(trainer, pl_module, exception)
        tell_resume(trainer, exception)


class HeadTrainer(RunCallback):
    """Trains the head of a ``Nagl`` on a source, or ends a fit after one batch when there is nothing to train.

    ``kept`` is the head of the epoch that ``selection`` prefers, ``backbone`` the fingerprint of the weights that a
    loaded head was trained on, None where it is not known.
    """

    def __init__(self, selection: str) -> None:
        self.kept = KeptHead(selection)
        self.backbone: str | None = None
        self._tokens: TokenTable | None = None
        self._outgrown: str | None = None
        self._first: dict[str, Tensor] = {}
        self._limits: TrainerLimits | None = None

    def remember_first(self, head: nn.Module) -> None:
        """Note the weights that every training of a model begins with."""
        self._first = {name: tensor.detach().cpu().clone() for name, tensor in head.state_dict().items()}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Forget what an earlier training kept, and how it ended; a checkpoint to go on from is not read yet."""
        del trainer, pl_module
        if stage == "fit":
            self._outgrown = None
            self.kept.reset()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave after a run; what a training was resumed from is of interest to the run after it alone."""
        super().teardown(trainer, pl_module, stage)
        self._give_limits_back(trainer)
        if stage != "fit":
            self._outgrown = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave after a run that failed."""
        super().on_exception(trainer, pl_module, exception)
        self._give_limits_back(trainer)
        self._forget_tokens(trainer)
        self._outgrown = None

    def has_outgrown(self, checkpoint: object) -> bool:
        """Whether the training that ended just now was resumed from this checkpoint.

        ``anomalib train --ckpt_path`` tests the very file that it was given, which knows nothing of that training.
        """
        return self._outgrown is not None and str(checkpoint) == self._outgrown

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Fetch the backbone's weights, begin anew unless a checkpoint goes on, and set the length of training.

        References, thresholds and score ranges belong to the finished head, so the target is looked at once, after
        training: ``on_fit_end`` does that.
        """
        nagl: Nagl = pl_module
        nagl.model.encoder.ensure_weights()
        check_backbone(self.backbone, nagl.model.encoder.network.fingerprint())
        if trainer.ckpt_path is None:
            start_over(trainer)
            self._begin_anew(nagl)
        self._limits = TrainerLimits.of(trainer)
        limit, planned = trainer.max_epochs, nagl.epochs if nagl.trains else 1
        trainer.fit_loop.max_epochs = planned if limit is None or limit < 0 else min(planned, limit)
        one_image = isinstance(datamodule_of(trainer), ReferenceData) and nagl.plan and not nagl.plan.needs_validation
        if one_image and isinstance(trainer.limit_val_batches, float):
            trainer.limit_val_batches = float(trainer.limit_val_batches > 0)  # a share of the one image is none
        if not nagl.trains:
            trainer.limit_train_batches, trainer.check_val_every_n_epoch = 1, 1
        elif trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = nagl.epochs + 1

    def _begin_anew(self, nagl: Nagl) -> None:
        """A head that is trained owes nothing to what the model learned before."""
        if nagl.trains:
            nagl.model.head.load_state_dict(self._first)
            nagl.head_trained = False

    def _give_limits_back(self, trainer: Trainer) -> None:
        """The trainer may be asked for another fit."""
        if self._limits is not None:
            self._limits.restore(trainer)
            self._limits = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Encode every image of the source once."""
        loader: Any = trainer.train_dataloader
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, TokenEpisodes):
            self._tokens = _encode(pl_module, trainer, loader.dataset.paths, loader.num_workers)
            if isinstance(loader, EpisodeLoader) and pl_module.device.type == "cuda":
                loader.ahead = copied_ahead(self._tokens, pl_module.device)

    def loss(self, nagl: Nagl, batch: Any) -> Tensor:
        """Loss of an ``EpisodeBatch`` or ``TokenBatch``, its parts logged."""
        maps, query_mask, label = self._maps(nagl, batch)
        losses = nagl.loss(maps, query_mask, label, nagl.model.encoder.grid)
        for name, value in losses._asdict().items():
            shown = name == "total"
            nagl.log(
                f"train_{name}", value, on_epoch=True, on_step=False, prog_bar=shown, batch_size=len(label),
                sync_dist=True,
            )  # fmt: skip
        total: Tensor = losses.total
        return total

    def _maps(self, nagl: Nagl, batch: Any) -> tuple[NaglMaps, Tensor, Tensor]:
        """Maps, query masks and labels of a batch of episodes; of images, the query is prepared already."""
        if isinstance(batch, PlacedTokens):
            maps = nagl.model.head(*batch[:3], batch.abnormal_mask, nagl.model.encoder.grid)
            return maps, batch.query_mask, batch.label
        if isinstance(batch, TokenBatch):
            if self._tokens is None:
                raise RuntimeError("found a batch of tokens before images were encoded: train through the Engine")
            tokens = [self._tokens.on(rows, nagl.device) for rows in batch[:3]]
            maps = nagl.model.head(*tokens, batch.abnormal_mask, nagl.model.encoder.grid)
            return maps, batch.query_mask, batch.label
        # anomalib's pre-processor prepares the query, and knows nothing of references.
        transform = transform_of(nagl.pre_processor) or nn.Identity()
        references = transform(batch.ref_normal), transform(batch.ref_abnormal)
        return nagl.model.episode(batch.image, *references, batch.ref_mask), batch.gt_mask, batch.gt_label

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Note that the head has learned something, and how well it does on categories it was not trained on."""
        nagl: Nagl = pl_module
        if not nagl.trains:
            return
        nagl.head_trained = True
        shown = {name: float(value) for name, value in trainer.callback_metrics.items() if "train_" in name}
        scores = self._validate(trainer, nagl)
        if scores is not None:
            self.kept.consider(trainer.current_epoch, scores, nagl.model.head)
            found = {"image_AUROC": scores.image, "pixel_AUROC": scores.pixel, "AUROC": scores.total}
            logged = {f"source_{name}": value for name, value in found.items()}
            nagl.log_dict({name: torch.tensor(value) for name, value in logged.items()}, prog_bar=True)
            shown.update(logged)
        if trainer.is_global_zero:
            listed = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
            logger.info("Epoch %d: %s", trainer.current_epoch, listed)

    def _validate(self, trainer: Trainer, nagl: Nagl) -> ValidationScores | None:
        """Scores on the episodes of held-out categories, None when the data has none."""
        data = datamodule_of(trainer)
        loaders = data.validation_loaders(trainer.current_epoch) if isinstance(data, ReferenceData) else None
        if not loaders:
            return None
        return validation_scores((self._scored(nagl, one) for one in loaders.values()), self.kept.rule == "paper")

    @torch.no_grad()
    def _scored(self, nagl: Nagl, loader: DataLoader[Any]) -> Iterator[ScoredEpisodes]:
        transform = transform_of(nagl.pre_processor) or nn.Identity()
        for batch in loader:
            placed = nagl.transfer_batch_to_device(batch, nagl.device, 0)
            if not isinstance(placed, TokenBatch):
                placed.image = transform(placed.image)
            maps, mask, label = self._maps(nagl, placed)
            smoothed = anomaly_map(maps.score, nagl.model.smooth_down, nagl.model.smooth_right)[:, 0]
            yield ScoredEpisodes(image_score(maps.score).cpu(), smoothed.cpu(), mask.cpu(), label.cpu())

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Finish a fit: take the head that was kept, then references and thresholds of the target, and save.

        Here and not on the last epoch, because early stopping and a training that was killed after its last epoch have
        none; Lightning offers no other way to validate once, so its validation loop is run as its own training does.
        """
        nagl: Nagl = pl_module
        self._forget_tokens(trainer)
        trainer.strategy.model_to_device()  # Lightning has taken it away already
        if nagl.trains:
            self._finish_training(trainer, nagl)
        elif nagl.reference_adapter.complete(trainer, nagl):
            save_finished(trainer)
        nagl.cpu()

    def _forget_tokens(self, trainer: Trainer) -> None:
        """Give their memory back; Lightning keeps the loader."""
        self._tokens = None
        if isinstance(trainer.train_dataloader, EpisodeLoader):
            trainer.train_dataloader.ahead = None

    def _finish_training(self, trainer: Trainer, nagl: Nagl) -> None:
        if self.kept.weights is not None:
            nagl.model.head.load_state_dict(self.kept.weights)
            logger.info("Keeping the head of epoch %d.", self.kept.epoch)
        elif self.kept.rule != "last":
            logger.info("Keeping the head of the last epoch: no other was found better on held-out source categories.")
        nagl.reference_adapter.expect_references()  # those of earlier epochs were made with other heads
        stale = has_saved(trainer)
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
        if nagl.reference_adapter.complete(trainer, nagl) or stale:
            save_finished(trainer)
        self._outgrown = None if trainer.ckpt_path is None else str(trainer.ckpt_path)


def _encode(nagl: Nagl, trainer: Trainer, paths: list[str], num_workers: int) -> TokenTable:
    """Tokens of images, from the cache of ``nagl`` as far as it has them."""
    encoder, strategy = nagl.model.encoder, trainer.strategy
    shape, dtype = (encoder.grid[0] * encoder.grid[1], encoder.dim), PRECISIONS[nagl.token_precision]
    pre_processor: Any = nagl.pre_processor
    if nagl.token_cache_dir is None:
        store: Any = partial(MemoryStore, shape=shape, dtype=dtype, pinned=nagl.device.type == "cuda")
    else:
        recipe = recipe_hash(encoder.fingerprint(), pre_processor.config, dtype)
        store = partial(FileStore, nagl.token_cache_dir, recipe, shape=shape, dtype=dtype)
    return encode_images(
        paths,
        pre_processor.transform,
        lambda images: nagl.model.encode(images.to(nagl.device)),
        store,
        Processes(
            trainer.global_rank,
            trainer.world_size,
            lambda part: strategy.reduce(part.to(strategy.root_device), reduce_op="sum"),
        ),
        num_workers,
    )
