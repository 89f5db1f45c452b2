"""The anomalib model: training glue, checkpoints and pre-processing around ``NaglModel``; nothing numeric."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.deploy.export import CompressionType
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn

from anomalib_nagl.bank.adapted import BANK_LIMIT
from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.variants import Variant
from anomalib_nagl.export.exporter import Options
from anomalib_nagl.plugin import exporting
from anomalib_nagl.plugin.checkpoint_content import load_content, load_head, save_content
from anomalib_nagl.plugin.checkpoints import check_checkpoint, read_checkpoint
from anomalib_nagl.plugin.defect_type_report import DefectTypeReport
from anomalib_nagl.plugin.error_hook import tell_errors
from anomalib_nagl.plugin.export_settings import read_given, settings_beside_checkpoint
from anomalib_nagl.plugin.fit_plan import FitPlan, datamodule_of, plan_fit
from anomalib_nagl.plugin.head_settings import DEFAULTS, PLACEHOLDER, build
from anomalib_nagl.plugin.head_trainer import EpochCheckpoint, HeadTrainer
from anomalib_nagl.plugin.metric_notes import note_metrics
from anomalib_nagl.plugin.optimization import published_optimizer
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor, post_process
from anomalib_nagl.plugin.pre_processing import PreProcessorFactory, check_size
from anomalib_nagl.plugin.prediction import Prediction, inference_batch, predict_batch, predict_image
from anomalib_nagl.plugin.prediction_report import PredictionReport
from anomalib_nagl.plugin.reference_adapter import ReferenceAdapter
from anomalib_nagl.plugin.reference_plan import ReferencePlan
from anomalib_nagl.plugin.run_folder import RunFolder
from anomalib_nagl.plugin.token_store import check_precision
from anomalib_nagl.plugin.visualizer import ReferenceVisualizer
from anomalib_nagl.plugin.window_settings import Windows
from anomalib_nagl.references.reference_set import ReferenceSet

logger = logging.getLogger(__name__)


class Nagl(AnomalibModule):
    """Normal-abnormal guided generalist anomaly detection (NeurIPS 2025, arXiv 2510.00495).

    A head is trained once, on the episodes of a source, over a frozen ``backbone``: a timm model, ``local-dir:PATH``,
    ``builtin`` (weights in the package) or ``gabor`` (none). With neither ``head`` nor source patches are compared.

    ``layers`` picks the stages of a CNN ("2,3"), ``backbone_weights`` a weight file, ``image_size`` the network input
    in pixels; ``variant`` is as in ``NaglHead``. What is left out of these, ``num_proxies`` and ``num_heads`` the head
    brings, or it is as in ``head_settings.DEFAULTS``. ``seed`` decides the head's first weights, and with ``n_normal``,
    ``n_abnormal`` and ``strategy`` (``sampling``) the references if the data is no ``ReferenceDataModule``.
    ``bank_limit`` bounds what a query is compared with (``bank.adapted.Limits``). ``views`` of references are those of
    ``bank.views``; "auto" is "turns", and "none" in the published code or with windows. ``window``, ``overlap`` and
    ``overview`` cut large images, see ``window_settings.Windows``.

    Training ends after ``epochs``, or earlier with the trainer's own limits, and keeps the head of the epoch that
    ``selection`` prefers on held-out sources: "best", "last", or "paper", which selects on the target (Q16).
    ``token_cache`` encodes each image once, into memory or ``token_cache_dir``, in ``token_precision``. ``threshold``
    "references" calibrates on the references alone, "f1_adaptive" is anomalib's rule on labelled images, a number is a
    raw image score. ``region`` is an image, white where to look (``bank.interest``). ValueError if a setting is wrong.
    """

    pre_processor: Any  # anomalib's components may be of any class
    post_processor: Any
    configure_pre_processor: Any = PreProcessorFactory()  # of a model, or of the class as in anomalib

    def __init__(
        self,
        backbone: str | None = None,
        layers: str | None = None,
        backbone_weights: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        num_proxies: int | None = None,
        num_heads: int | None = None,
        variant: str | None = None,
        head: str | None = None,
        n_normal: int = 1,
        n_abnormal: int = 1,
        bank_limit: int | None = BANK_LIMIT,
        views: str = "auto",
        window: int | str | None = None,
        overlap: int = 64,
        overview: bool | None = None,
        seed: int = 0,
        strategy: str = "uniform",
        epochs: int = 20,
        learning_rate: float = 1e-4,
        token_cache: bool = True,
        token_cache_dir: str | None = None,
        token_precision: str = "float16",
        selection: str = "best",
        threshold: str | float = "references",
        region: str | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        tell_errors()
        head = None if head is None else str(head)
        given = dict(zip(DEFAULTS, (backbone, layers, num_proxies, num_heads, variant, image_size), strict=True))
        self.windows = Windows.parse(window, overlap, overview, given, head is not None)
        model, settled, trained = build(given, head, backbone_weights, seed, views, self.windows)
        backbone, layers, num_proxies, num_heads, variant, image_size = settled.values()  # what Lightning saves
        token_cache_dir = token_cache_dir and str(token_cache_dir)
        check_precision(token_precision)
        self.adapts = self.head_trained = head is not None or not Variant.parse(settled["variant"]).proxies
        self.variant_given = head is not None or given["variant"] is not None  # by a person, or by a head
        self.image_size: tuple[int, int] = settled["image_size"]
        self.threshold, self.region = read_given(threshold, region)
        self.statistics = model.encoder.mean, model.encoder.std, settled["variant"].startswith("paper")
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        check_size(self.pre_processor, self.image_size)
        self.model: NaglModel = model
        self.loss: NaglLoss = NaglLoss(settled["variant"])
        self.n_normal, self.n_abnormal, self.bank_limit, self.seed = n_normal, n_abnormal, bank_limit, seed
        self.epochs, self.learning_rate, self.token_cache = epochs, learning_rate, token_cache
        self.token_cache_dir, self.token_precision = token_cache_dir, token_precision
        self.plan: FitPlan | None = None  # of the fit that runs, or ran last
        self.checkpoint_file: Path | None = None  # that it was loaded from
        drawn = ReferencePlan(n_normal=n_normal, n_abnormal=n_abnormal, seed=seed, strategy=strategy)
        self.reference_adapter = ReferenceAdapter(drawn)
        self.head_trainer = HeadTrainer(selection)
        self.head_trainer.remember_first(model.head)
        if trained is not None and head is not None:
            load_head(self, trained, head)

    @property
    def learning_type(self) -> LearningType:
        """ONE_CLASS for anomalib: its other types skip fitting, where adaptation takes references and thresholds."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity validation: there are no references yet. A trained head needs one epoch, which trains nothing."""
        return {"num_sanity_val_steps": 0, **({"max_epochs": 1} if self.adapts else {})}

    def configure_post_processor(self) -> ReferencePostProcessor:
        """Thresholds from the references, unless ``threshold`` says otherwise."""
        return ReferencePostProcessor(self.threshold)

    @classmethod
    def configure_visualizer(cls) -> ReferenceVisualizer:
        """Anomalib's visualiser, with the references beside the images."""
        return ReferenceVisualizer()

    @property
    def references(self) -> list[dict[str, str]]:
        """Records of the references that the model knows, normal ones first."""
        return self.reference_adapter.references

    @property
    def manifest(self) -> dict[str, Any]:
        """What ``references.json`` says: their records, and how they were chosen."""
        return self.reference_adapter.manifest

    @property
    def selection(self) -> str:
        """The rule that decides which epoch's head is kept."""
        return self.head_trainer.kept.rule

    @property
    def fitting(self) -> bool:
        """Whether the run is a fit, or the last one was."""
        return self._trainer is not None and self._trainer.state.fn == "fit"

    @property
    def trains(self) -> bool:
        """Whether this fit trains a head; another one shows it references only."""
        return self.plan is not None and self.plan.mode == "episodes"

    def configure_callbacks(self) -> Sequence[Callback]:
        """Our parts and anomalib's. The first hook of a run, before any data: here a fit is planned, and data told."""
        self.plan = plan_fit(self)
        note_metrics(self.evaluator)
        self.reference_adapter.notice(datamodule_of(self.trainer))
        listed: Any = super().configure_callbacks()
        saved = self.trains and self.trainer.checkpoint_callbacks
        epochs = [EpochCheckpoint(self.head_trainer.kept)] if saved else []
        # The report of a prediction comes after what anomalib does to its batches.
        late = [RunFolder(self.trainer, self.fitting), *epochs, PredictionReport()]
        return [DefectTypeReport(), *listed, self.reference_adapter, self.head_trainer, *late]

    def setup(self, stage: str) -> None:
        """Have errors of checkpoints explained."""
        # Imported late: anomalib's engine may itself be importing this package.
        from anomalib_nagl.plugin.checkpoint_io import explain_errors

        explain_errors(self.trainer.strategy, self.checkpoint_safe_globals())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with two learning-rate steps; nothing to optimise with a trained head."""
        rate, decay_all = self.learning_rate, self.loss.variant.decay_all
        return published_optimizer(self.model.head, rate, decay_all) if self.trains else None

    def set_references(
        self, references: ReferenceSet, selection: Mapping[str, Any] | None = None, removed: int = 0
    ) -> None:
        """Show the model references of a new part, in place of those it had; ValueError when they cannot be used.

        How they were chosen, ``selection``, and how many tested images left as they are references go on record.
        """
        self.reference_adapter.set_references(self, references, selection, removed)

    def predict(self, image: Any) -> Prediction:
        """Score a path, Pillow image, array or tensor; RuntimeError without references, ValueError for no image."""
        return predict_image(self, image)

    def forward(self, batch: Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Score RGB images (B, 3, H, W) in [0, 1] of any size: what an exported file does."""
        images = self.pre_processor(batch) if self.pre_processor else batch
        return post_process(self.post_processor, inference_batch(self.model(images)))

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        """Loss of an ``EpisodeBatch`` or ``TokenBatch``; nothing with a trained head."""
        nothing = torch.zeros((), device=self.device, requires_grad=True)
        return self.head_trainer.loss(self, batch) if self.trains else nothing

    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch of the target, for thresholds and scales by anomalib's rule."""
        return super().test_step(batch, 0, *args, **kwargs)

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch, see ``predict_batch``."""
        return predict_batch(self, batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a batch, see ``predict_batch``."""
        return predict_batch(self, batch)

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
        save_content(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take all from the checkpoint, whatever the constructor was told."""
        check_checkpoint(checkpoint, "the checkpoint")
        if self._trainer is not None and self.head_trainer.has_outgrown(self._trainer.ckpt_path):
            logger.info("Going on with the head just trained, not with the checkpoint its training was resumed from.")
            checkpoint["state_dict"] = self.state_dict()
            return
        load_content(self, checkpoint)
        super().on_load_checkpoint(checkpoint)
        self.plan = plan_fit(self)  # anew: this may be a model of another size
        if self._trainer is not None:
            self.reference_adapter.tell_data(self._trainer, self)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Nagl:
        """Load a model with its references; ValueError if the file is not a checkpoint of Nagl."""
        check_checkpoint(read_checkpoint(checkpoint_path), checkpoint_path)
        kwargs = {**settings_beside_checkpoint(), **kwargs}
        given = {**PLACEHOLDER, **kwargs}
        model: Nagl = super().load_from_checkpoint(checkpoint_path, *args, **given)  # type: ignore[assignment]
        model.checkpoint_file = Path(checkpoint_path)
        model.reference_adapter.apply_given(model, kwargs)
        return model
