"""Adaptation glue: whose references the model is shown, and when."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule

from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.plugin.coreset import coreset
from anomalib_nagl.plugin.datasets import choose_references, describe, hold_out
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor
from anomalib_nagl.plugin.reading import read_alike
from anomalib_nagl.plugin.reference_datamodule import ReferenceDataModule
from anomalib_nagl.references.prepare import prepare_references
from anomalib_nagl.references.record import make_record, write_record
from anomalib_nagl.references.reference_set import ReferenceSet
from anomalib_nagl.references.sampling import SupportSet

logger = logging.getLogger(__name__)


class Adaptation(LightningModule):
    """The part of ``Nagl`` that takes references: chosen by the data, or given by a person."""

    model: NaglModel
    pre_processor: Any
    post_processor: Any
    evaluator: Any
    head_trained: bool
    adapts: bool
    n_normal: int
    n_abnormal: int
    seed: int
    strategy: str
    bank_limit: int | None
    references: list[dict[str, str]]
    manifest: dict[str, Any]
    _held_out: SupportSet | None
    _removed: int
    _threshold: str | float

    @property
    def reference_mode(self) -> str:
        """What the datamodule shall serve for fitting: ``episodes`` to train on, or ``references`` to adapt only."""
        return "references" if self.adapts or not self._abnormal_shots else "episodes"

    @property
    def needs_validation(self) -> bool:
        """Whether pictures of the validation split are needed: not where references set the thresholds."""
        if not self._fitting or getattr(self.evaluator, "val_metrics", None):
            return True
        return not (isinstance(self.post_processor, ReferencePostProcessor) and self.post_processor.from_references)

    @property
    def _abnormal_shots(self) -> int:
        data = getattr(self._trainer, "datamodule", None)
        return data.plan.abnormal_shots if isinstance(data, ReferenceDataModule) else self.n_abnormal

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def setup(self, stage: str) -> None:
        """Choose references of a plain datamodule, before any loader exists.

        Raises ValueError when a head would have to be trained without a source, or pictures are missing.
        """
        # Imported late: anomalib's engine may itself be importing this package.
        from anomalib_nagl.plugin.checkpoint_io import NaglCheckpointIO

        if type(self.trainer.strategy.checkpoint_io).__name__ in ("AnomalibCheckpointIO", "TorchCheckpointIO"):
            extra: Any = getattr(self, "checkpoint_safe_globals")()  # noqa: B009  # anomalib's class method
            self.trainer.strategy.checkpoint_io = NaglCheckpointIO(extra_safe_globals=list(extra))
        data = getattr(self.trainer, "datamodule", None)
        if data is None or isinstance(data, ReferenceDataModule) or not hasattr(data, "test_data"):
            return
        if self._held_out is None and stage == "fit":
            if self.reference_mode == "episodes":
                raise ValueError(
                    f"found an untrained head and only {describe(data)} to learn from, expected a source of training "
                    "episodes: give a trained head with --model.head, or --data ReferenceDataModule with "
                    "--data.source, or --model.variant extended-proxies, which needs no head, or --model.n_abnormal 0"
                )
            self._held_out = choose_references(data, self.n_normal, self.n_abnormal, self.seed, self.strategy)
        read_alike(data)
        if self._held_out is not None:
            self._removed = hold_out(data, self._held_out) or self._removed  # fit and test share the data

    def set_references(
        self, references: ReferenceSet, selection: Mapping[str, Any] | None = None, removed: int = 0
    ) -> None:
        """Show the model the references of a new part, replacing those it had.

        How they were chosen, the ``selection``, and how many tested pictures left because they are references go on
        record. Raises ValueError when they cannot be used.
        """
        transform = getattr(self.pre_processor, "transform", None)
        if transform is None:
            raise ValueError("found no pre-processor, expected one to prepare reference images with: leave it enabled")
        if references.abnormal and not self.head_trained and not self._fitting:
            logger.warning("The head is untrained: abnormal references add noise. Train one, or load one as `head`.")
        self.model.encoder.ensure_weights()
        # Validation runs in inference mode, whose tensors could be neither saved for a backward pass nor resized.
        with torch.inference_mode(False), torch.no_grad():
            prepared = prepare_references(references, transform, self.model.encoder.image_size)
            normal, abnormal, masks, pictures, unmasked = (tensor.to(self.device) for tensor in prepared)
            select = partial(coreset, limit=self.bank_limit) if self.bank_limit else None
            tokens = self.model.set_references(normal, abnormal, masks, pictures, unmasked, select)
            if isinstance(self.post_processor, ReferencePostProcessor) and self.post_processor.from_references:
                self.post_processor.calibrate(calibrate(self.model, tokens, self.model.state))
        self.references = references.records()
        self.manifest = make_record(self.references, selection, removed)

    def _collect_references(self) -> None:
        """Take the references that the data chose."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ReferenceDataModule):
            self.set_references(data.reference_set(), data.plan.selection(data.target), data.removed)
        elif data is not None and self._held_out is not None:
            settings = {name: getattr(self, name) for name in ("n_normal", "n_abnormal", "seed", "strategy")}
            record = {"drawn_from": describe(data), **settings, "masks": "auto"}
            self.set_references(self._held_out.load(), record, self._removed)

    def _record_references(self) -> None:
        """Write ``references.json`` into the folder of this run."""
        if self.model.has_references and self.manifest and self.trainer.is_global_zero:
            write_record(self.manifest, self.trainer.default_root_dir)

    def on_test_start(self) -> None:
        """Take references where none were taken before, write down which are used, apply a threshold given now."""
        self._take_missing()
        self._record_references()
        self._apply_threshold()

    def on_predict_start(self) -> None:
        """Take references where none were taken before, write down which are used, apply a threshold given now."""
        self._take_missing()
        self._record_references()
        self._apply_threshold()

    def _apply_threshold(self) -> None:
        """A number given to the constructor stands above what a checkpoint holds."""
        if isinstance(self._threshold, float) and isinstance(self.post_processor, ReferencePostProcessor):
            self.post_processor.set_threshold(image=self._threshold)

    def _take_missing(self) -> None:
        """A trained head, or none at all, can be shown references without a run of its own to take them."""
        data = getattr(self.trainer, "datamodule", None)
        if self.model.has_references or not isinstance(data, ReferenceDataModule):
            return
        if data.plan.files is not None and (self.head_trained or not self._abnormal_shots):
            self._collect_references()

    def on_validation_start(self) -> None:
        """Take the references anew while fitting: what residual mining makes of them depends on the head."""
        if self._fitting or not self.model.has_references:
            self.model.encoder.ensure_weights()
            self._collect_references()
            self._record_references()
