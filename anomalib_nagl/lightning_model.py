"""The anomalib model: training glue, checkpoints and pre-processing around ``NaglModel``; nothing numeric."""

from __future__ import annotations

import logging
from typing import Any

import torch
from anomalib import LearningType
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn

from anomalib_nagl.checkpoints import check_backbone, check_checkpoint, check_settings, read_checkpoint, read_head
from anomalib_nagl.data.reference_datamodule import ReferenceDataModule
from anomalib_nagl.data.selection import Choice, choose, describe, exclude, find_copies, hold_out
from anomalib_nagl.data.tokens import TokenBatch, TokenEpisodes, encode_pictures
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.export import SafeExport
from anomalib_nagl.losses import NaglLoss
from anomalib_nagl.optimization import check_limits, published_optimizer
from anomalib_nagl.pre_processing import NaglPreProcessor, prepare_references
from anomalib_nagl.references import ReferenceSet
from anomalib_nagl.torch_model import NaglModel, build_model
from anomalib_nagl.visualizer import ReferenceVisualizer

logger = logging.getLogger(__name__)
_STRUCTURE = ("backbone", "layers", "num_proxies", "num_heads", "variant")


class Nagl(SafeExport, AnomalibModule):  # type: ignore[misc]  # anomalib's own mixin overrides Lightning's to_onnx too
    """Normal-abnormal guided generalist anomaly detection (NeurIPS 2025, arXiv 2510.00495).

    A small attention head is trained once, on the episodes of a source, over a frozen ``backbone``: any timm model by
    name, ``local-dir:PATH``, or ``gabor`` (no weights). With a trained ``head`` (a checkpoint of this model or of the
    published code) nothing is trained: a few normal and defective reference images of a new part are enough.

    ``layers`` picks the stages of a CNN ("2,3"), ``backbone_weights`` a weight file, ``image_size`` the network input
    in pixels, one number or height and width. ``variant`` is read as in ``NaglHead``. ``seed`` decides the head's first
    weights, and with ``n_normal`` and ``n_abnormal`` the references when the data is not a ``ReferenceDataModule``.
    Training ends after ``epochs``, or earlier with the trainer's own limits; ``token_cache`` encodes each picture once
    instead of whenever an episode shows it. Raises ValueError when a setting or the head does not fit.
    """

    def __init__(
        self,
        backbone: str = "vit_small_patch14_dinov2",
        layers: str | None = None,
        backbone_weights: str | None = None,
        image_size: int | tuple[int, int] = 448,
        num_proxies: int = 25,
        num_heads: int = 4,
        variant: str = "corrected",
        head: str | None = None,
        n_normal: int = 1,
        n_abnormal: int = 1,
        seed: int = 0,
        epochs: int = 20,
        learning_rate: float = 1e-4,
        token_cache: bool = True,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        image_size = parse_image_size(image_size)  # the plain form is what goes into a checkpoint
        head = str(head) if head is not None else None
        self.adapts = self.head_trained = head is not None
        self._size = image_size
        model = build_model(backbone, layers, num_proxies, num_heads, variant, image_size, backbone_weights, seed)
        self._statistics = model.encoder.mean, model.encoder.std, variant.startswith("paper")
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model: NaglModel = model
        self.loss: NaglLoss = NaglLoss(variant)
        self.n_normal, self.n_abnormal, self.seed = n_normal, n_abnormal, seed
        self.epochs, self.learning_rate, self.token_cache = epochs, learning_rate, token_cache
        self._tokens: Tensor | None = None
        self.references: list[dict[str, str]] = []
        self._held_out: Choice | None = None
        self._head_backbone: str | None = None
        if head is not None:
            trained = read_head(head)
            check_settings(trained, {name: self.hparams[name] for name in _STRUCTURE}, head)
            self.model.head.load_published(trained.state)
            self._head_backbone = trained.fingerprint
            if not trained.settings:
                logger.warning("Nothing in %s says how it was trained: it is used as variant %r.", head, variant)

    @property
    def learning_type(self) -> LearningType:
        """ONE_CLASS for anomalib: its other types skip fitting, where adaptation takes references and thresholds."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity validation: there are no references yet. A trained head needs one epoch, which trains nothing."""
        return {"num_sanity_val_steps": 0, **({"max_epochs": 1} if self.adapts else {})}

    @property
    def reference_mode(self) -> str:
        """What the datamodule shall serve for fitting: ``episodes`` to train on, or ``references`` to adapt only."""
        return "references" if self.adapts or not self._abnormal_shots else "episodes"

    @property
    def _abnormal_shots(self) -> int:
        data = getattr(self._trainer, "datamodule", None)
        return int(data.n_abnormal if isinstance(data, ReferenceDataModule) else self.n_abnormal)

    def configure_pre_processor(self, image_size: tuple[int, int] | None = None) -> PreProcessor:  # type: ignore[override]
        """Resize to the network input, normalise with the backbone's statistics."""
        mean, std, published = self._statistics
        return NaglPreProcessor(image_size or self._size, mean, std, published)

    @classmethod
    def configure_visualizer(cls) -> ReferenceVisualizer:
        """Anomalib's pictures, with the references beside them."""
        return ReferenceVisualizer()

    def setup(self, stage: str) -> None:
        """Choose references of a plain datamodule, before any loader exists.

        Raises ValueError when a head would have to be trained without a source, or pictures are missing.
        """
        # Imported late: anomalib's engine may itself be importing this package.
        from anomalib_nagl.checkpoint_io import NaglCheckpointIO

        if type(self.trainer.strategy.checkpoint_io).__name__ in ("AnomalibCheckpointIO", "TorchCheckpointIO"):
            extra = list(self.checkpoint_safe_globals())
            self.trainer.strategy.checkpoint_io = NaglCheckpointIO(extra_safe_globals=extra)
        data = getattr(self.trainer, "datamodule", None)
        if data is None or isinstance(data, ReferenceDataModule) or not hasattr(data, "test_data"):
            return
        if self._held_out is None and stage == "fit":
            if self.reference_mode == "episodes":
                raise ValueError(
                    f"found an untrained head and only {describe(data)} to learn from, expected a source of training "
                    "episodes: give a trained head with --model.head, or --data ReferenceDataModule with "
                    "--data.source, or --model.n_abnormal 0"
                )
            self._held_out = choose(data, self.n_normal, self.n_abnormal, self.seed)
        if self._held_out is not None:
            hold_out(data, self._held_out)

    def set_references(self, references: ReferenceSet) -> None:
        """Show the model the references of a new part, replacing those it had."""
        transform = getattr(self.pre_processor, "transform", None)
        if transform is None:
            raise ValueError("found no pre-processor, expected one to prepare reference images with: leave it enabled")
        if references.abnormal and not self.head_trained and not self._fitting:
            logger.warning("The head is untrained: abnormal references add noise. Train one, or load one as `head`.")
        self.model.encoder.ensure_weights()
        # Validation runs in inference mode, whose tensors could be neither saved for a backward pass nor resized.
        with torch.inference_mode(False), torch.no_grad():
            prepared = prepare_references(references, transform, self.model.encoder.image_size)
            self.model.set_references(*(tensor.to(self.device) for tensor in prepared))
        self.references = references.records()

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def _collect_references(self) -> None:
        """Take the references that the data chose."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ReferenceDataModule):
            self.set_references(data.reference_set())
        elif self._held_out is not None:
            self.set_references(self._held_out.load())

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

    def on_validation_start(self) -> None:
        """Take the references anew while fitting: what residual mining makes of them depends on the head."""
        if self._fitting or not self.model.has_references:
            self.model.encoder.ensure_weights()
            self._collect_references()

    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch of the target, for thresholds and score ranges."""
        return self.test_step(batch, 0, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save plain data only, and nothing that refers to other files."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].update(head=None, backbone_weights=None, image_size=list(self._size))
        checkpoint["nagl"] = {
            "head_trained": self.head_trained,
            "references": self.references,
            "backbone": self.model.encoder.config,
            "fingerprint": self.model.encoder.fingerprint() if self.model.encoder.weights_ready else None,
            # A copy: Lightning writes a caller's arguments over the hyper-parameters before it builds the model.
            "settings": {name: checkpoint["hyper_parameters"][name] for name in (*_STRUCTURE, "image_size")},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take structure, references and pre-processing from the checkpoint, whatever the constructor was told."""
        check_checkpoint(checkpoint, "the checkpoint")
        settings = checkpoint["nagl"]["settings"]
        self._size = parse_image_size(settings["image_size"])
        structure = {name: settings[name] for name in _STRUCTURE}
        self.model = build_model(**structure, image_size=self._size, config=checkpoint["nagl"]["backbone"])
        self.loss = NaglLoss(settings["variant"])
        self._statistics = self.model.encoder.mean, self.model.encoder.std, settings["variant"].startswith("paper")
        self.hparams.update(settings)
        self.head_trained = bool(checkpoint["nagl"]["head_trained"])
        self.references = list(checkpoint["nagl"]["references"])
        super().on_load_checkpoint(checkpoint)
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, ReferenceDataModule) and not self._fitting:
            data.use_recorded(self.references)
        if data is not None:
            data.setup(self.trainer.state.fn)  # its loaders resize to the size of the model that was there before
            if hasattr(data, "test_data"):
                exclude(data, find_copies(data, self.references))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Nagl:
        """Load a model with its references; ValueError if the file is not a checkpoint of Nagl."""
        check_checkpoint(read_checkpoint(checkpoint_path), checkpoint_path)
        # Built with a backbone that needs no file; on_load_checkpoint puts the right one in its place.
        placeholder = {"backbone": "gabor", "layers": None, "image_size": 448, "num_heads": 1, **kwargs}
        return super().load_from_checkpoint(checkpoint_path, *args, **placeholder)  # type: ignore[return-value]
