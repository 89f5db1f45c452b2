"""The anomalib model: training glue, checkpoints and pre-processing around ``NaglModel``; nothing numeric."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.deploy.export import CompressionType
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.core.model import NaglModel, build_model
from anomalib_nagl.core.variants import Variant
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.export.exporter import Options
from anomalib_nagl.plugin import exporting
from anomalib_nagl.plugin.checkpoints import check_checkpoint, check_settings, read_checkpoint, read_head
from anomalib_nagl.plugin.datasets import exclude, find_copies
from anomalib_nagl.plugin.defect_type_report import TypeResults
from anomalib_nagl.plugin.epoch_selection import KeptHead
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor, parse_threshold
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.plugin.prediction import Scoring
from anomalib_nagl.plugin.reference_datamodule import ReferenceDataModule
from anomalib_nagl.plugin.token_cache import TokenTable
from anomalib_nagl.plugin.token_store import PRECISIONS
from anomalib_nagl.plugin.training import HeadTraining
from anomalib_nagl.plugin.visualizer import ReferenceVisualizer
from anomalib_nagl.references.names import STRATEGIES, check_name
from anomalib_nagl.references.sampling import SupportSet

logger = logging.getLogger(__name__)
_STRUCTURE = ("backbone", "layers", "num_proxies", "num_heads", "variant")


# anomalib's own mixin overrides Lightning's to_onnx too, hence the ignored type.
class Nagl(HeadTraining, Scoring, AnomalibModule):
    """Normal-abnormal guided generalist anomaly detection (NeurIPS 2025, arXiv 2510.00495).

    A small attention head is trained once, on the episodes of a source, over a frozen ``backbone``: any timm model by
    name, ``local-dir:PATH``, or ``gabor`` (no weights). With a trained ``head`` (a checkpoint of this model or of the
    published code) nothing is trained: a few normal and defective reference images of a new part are enough.

    ``layers`` picks the stages of a CNN ("2,3"), ``backbone_weights`` a weight file, ``image_size`` the network input
    in pixels, one number or height and width. ``variant`` is read as in ``NaglHead``; ``extended-proxies`` compares
    patches only and needs no head. ``seed`` decides the head's first weights, and with ``n_normal``, ``n_abnormal``
    and ``strategy`` (``sampling``) the references when the data is not a ``ReferenceDataModule``. ``bank_limit`` keeps
    a coreset of so many normal patches, for large reference sets.

    Training ends after ``epochs``, or earlier with the trainer's own limits, and keeps the head of the epoch that
    ``selection`` prefers on held-out source categories: "best", "last", or "paper", which selects on the target as the
    published code does (Q16). ``token_cache`` encodes each picture once instead of whenever an episode shows it, into
    memory or files under ``token_cache_dir``, as numbers of ``token_precision``. ``threshold`` "references" calibrates
    on the references alone (``calibration``), "f1_adaptive" is anomalib's rule on labelled validation pictures, a
    number is a raw image score. Raises ValueError when a setting or the head does not fit.
    """

    def __init__(
        self,
        backbone: str = "vit_small_patch14_dinov2",
        layers: str | None = None,
        backbone_weights: str | None = None,
        image_size: int | tuple[int, int] = 448,
        num_proxies: int = 25,
        num_heads: int = 4,
        variant: str = "extended",
        head: str | None = None,
        n_normal: int = 1,
        n_abnormal: int = 1,
        bank_limit: int | None = None,
        seed: int = 0,
        strategy: str = "uniform",
        epochs: int = 20,
        learning_rate: float = 1e-4,
        token_cache: bool = True,
        token_cache_dir: str | None = None,
        token_precision: str = "float16",
        selection: str = "best",
        threshold: str | float = "references",
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        image_size = parse_image_size(image_size)  # the plain form is what goes into a checkpoint
        head = str(head) if head is not None else None
        self.adapts = self.head_trained = head is not None or not Variant.parse(variant).proxies
        self._size = image_size
        model = build_model(backbone, layers, num_proxies, num_heads, variant, image_size, backbone_weights, seed)
        self._statistics = model.encoder.mean, model.encoder.std, variant.startswith("paper")
        self._threshold = parse_threshold(threshold)
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model: NaglModel = model
        self.loss: NaglLoss = NaglLoss(variant)
        self.n_normal, self.n_abnormal, self.bank_limit, self.seed = n_normal, n_abnormal, bank_limit, seed
        check_name("strategy", strategy, STRATEGIES)
        self.strategy = strategy
        self.epochs, self.learning_rate, self.kept = epochs, learning_rate, KeptHead(selection)
        if token_precision not in PRECISIONS:
            raise ValueError(f"found token_precision={token_precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.token_cache, self.token_precision = token_cache, token_precision
        self.token_cache_dir = None if token_cache_dir is None else str(token_cache_dir)
        self._tokens: TokenTable | None = None
        self.references: list[dict[str, str]] = []
        self.manifest: dict[str, Any] = {}
        self._held_out: SupportSet | None = None
        self._removed = 0
        self._type_results: TypeResults | None = None
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

    def configure_pre_processor(self, image_size: tuple[int, int] | None = None) -> PreProcessor:  # type: ignore[override]
        """Resize to the network input, normalise with the backbone's statistics."""
        mean, std, published = self._statistics
        return NaglPreProcessor(image_size or self._size, mean, std, published)

    def configure_post_processor(self) -> ReferencePostProcessor:
        """Thresholds from the references, unless ``threshold`` says otherwise."""
        return ReferencePostProcessor(self._threshold)

    @classmethod
    def configure_visualizer(cls) -> ReferenceVisualizer:
        """Anomalib's pictures, with the references beside them."""
        return ReferenceVisualizer()

    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch of the target, for thresholds and score ranges by anomalib's rule."""
        return AnomalibModule.test_step(self, batch, 0, *args, **kwargs)

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Score RGB images (B, 3, H, W) in [0, 1] of any size, pre- and post-processing included."""
        del args, kwargs
        prepared = self.pre_processor(batch) if self.pre_processor else batch
        found = InferenceBatch(**self.model(prepared)._asdict())
        return self.post_processor(found) if self.post_processor else found

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Write ``weights/torch/NAME.pt``; RuntimeError without references."""
        return exporting.to_torch(self, export_root, model_file_name)

    def to_onnx(  # type: ignore[override]  # as anomalib's own
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write ``weights/onnx/NAME.onnx``, see ``exporting.to_onnx``."""
        return exporting.to_onnx(self, export_root, model_file_name, input_size, kwargs)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: Any = None,
        metric: Any = None,
        task: Any = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Write ``weights/openvino/NAME.xml`` and what the box needs, see ``exporting.to_openvino``."""
        request = exporting.CompressionRequest(compression_type, datamodule, metric, task, max_drop)
        options = Options(input_size, onnx_kwargs or {}, ov_kwargs or {})
        return exporting.to_openvino(self, export_root, model_file_name, options, request)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save plain data only, and nothing that refers to other files."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].update(head=None, backbone_weights=None, image_size=list(self._size))
        checkpoint["nagl"] = {
            "head_trained": self.head_trained,
            "references": self.references,
            "kept": self.kept.state() if self._fitting else None,
            "manifest": self.manifest,
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
        if self._fitting and checkpoint["nagl"].get("kept"):
            self.kept.restore(checkpoint["nagl"]["kept"])
        self.manifest = dict(checkpoint["nagl"].get("manifest", {}))
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
        model: Nagl = super().load_from_checkpoint(checkpoint_path, *args, **placeholder)  # type: ignore[assignment]
        if "threshold" in kwargs:
            model._apply_threshold()
        return model
