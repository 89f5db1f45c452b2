"""Adapting: whose references a model is shown, and when."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import AnomalibDataModule
from lightning.pytorch import Trainer

from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.core.variants import HEAD_FREE
from anomalib_nagl.plugin.borrowed_splits import BorrowedSplits
from anomalib_nagl.plugin.datasets import describe, exclude, find_copies, hold_out
from anomalib_nagl.plugin.fit_plan import ReferenceData, datamodule_of, plan_fit
from anomalib_nagl.plugin.folder_masks import with_paired_masks
from anomalib_nagl.plugin.head_settings import do_without_head
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor
from anomalib_nagl.plugin.pre_processing import transform_of
from anomalib_nagl.plugin.reading import read_alike
from anomalib_nagl.plugin.reference_plan import ReferencePlan
from anomalib_nagl.plugin.run_callback import RunCallback
from anomalib_nagl.plugin.sample_reader import SampleReader, steady_reader
from anomalib_nagl.plugin.window_size import settle_size, tell_windows
from anomalib_nagl.references.advice import threshold_advice
from anomalib_nagl.references.prepare import prepare_references
from anomalib_nagl.references.record import make_record, write_record
from anomalib_nagl.references.reference_set import ReferenceSet
from anomalib_nagl.references.sampling import SupportSet

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

logger = logging.getLogger(__name__)


class ReferenceAdapter(RunCallback):
    """Shows a ``Nagl`` the references of a part: chosen by the data, or given by a person.

    ``plan`` draws them from a datamodule that brings none. ``references`` and ``manifest`` record which ones the model
    knows, and how they were chosen.
    """

    def __init__(self, plan: ReferencePlan) -> None:
        self.plan = plan
        self.references: list[dict[str, str]] = []
        self.manifest: dict[str, Any] = {}
        self._splits = BorrowedSplits()
        self._held_out: SupportSet | None = None
        self._reader: SampleReader | None = None
        self._removed = 0
        self._taken = False

    def set_references(
        self, nagl: Nagl, references: ReferenceSet, selection: Mapping[str, Any] | None = None, removed: int = 0
    ) -> None:
        """Prepare references, adapt the model to them, set thresholds by them, and put them on record.

        Raises ValueError when they cannot be used.
        """
        settle_size(nagl, references.sizes)
        transform = transform_of(nagl.pre_processor)
        if transform is None:
            raise ValueError("found no pre-processor, expected one to prepare reference images with: leave it enabled")
        untrained = references.abnormal and not nagl.head_trained and not nagl.fitting
        if untrained and not do_without_head(nagl):
            logger.warning("The head is untrained: abnormal references add noise. Train one, or load one as `head`.")
        tell_windows(nagl.model.encoder)
        nagl.model.encoder.ensure_weights()
        # Validation runs in inference mode, whose tensors could be neither saved for a backward pass nor resized.
        with torch.inference_mode(False), torch.no_grad():
            prepared = prepare_references(references, transform, nagl.model.encoder.image_size)
            normal, abnormal, masks, images, unmasked = (tensor.to(nagl.device) for tensor in prepared)
            records = references.records()
            if nagl.region is not None:
                nagl.model.set_region(nagl.region)
            tokens = nagl.model.set_references(
                normal, abnormal, masks, images, unmasked, nagl.bank_limit, _keys(records)
            )
            if _calibrate(nagl, tokens) and (advice := threshold_advice(len(references.normal))):
                logger.warning("%s.", advice)
        self.references = records
        self.manifest = make_record(self.references, selection, removed)

    def restore(self, references: Sequence[dict[str, str]], manifest: Mapping[str, Any]) -> None:
        """Take over what a checkpoint says of the references it holds."""
        self.references, self.manifest = list(references), dict(manifest)

    def notice(self, data: Any) -> None:
        """Look at the data of a run that is about to begin."""
        self._splits.notice(data)
        with_paired_masks(data)

    def tell_data(self, trainer: Trainer, nagl: Nagl) -> None:
        """Let the data know the references and the size of a model that came from a checkpoint."""
        data = datamodule_of(trainer)
        if isinstance(data, ReferenceData) and not nagl.fitting:
            data.use_recorded(self.references)
        elif isinstance(data, AnomalibDataModule) and not nagl.fitting:
            self._splits.take(data)
        if data is not None:
            data.setup(trainer.state.fn)  # type: ignore[arg-type]  # anomalib tells Lightning's enum from plain text
        if isinstance(data, AnomalibDataModule):
            exclude(data, find_copies(data, self.references))

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Choose references of a plain datamodule before any loader exists, or leave out those that the model has.

        Raises ValueError when there is nothing to choose from, when a head would have to be trained without a source,
        or when images are missing.
        """
        nagl: Nagl = pl_module
        data = datamodule_of(trainer)
        if stage == "fit":
            self.expect_references()
            self._held_out, self._removed = None, 0
        if isinstance(data, ReferenceData):
            self._leave_out_known(data, stage)
        elif not isinstance(data, AnomalibDataModule):
            self._check_loaders(trainer, nagl, stage)
        else:
            self._setup_plain(nagl, data, stage)
        if nagl.windows.open and data is not None:
            self._settle_size(trainer, nagl, data)

    def _settle_size(self, trainer: Trainer, nagl: Nagl, data: Any) -> None:
        """Give a model the size of its references before any loader exists: queries are resized as they are read."""
        chosen = self._chosen(data)
        if chosen is not None and settle_size(nagl, chosen.sizes):
            nagl.plan = plan_fit(nagl)
            data.setup(trainer.state.fn)

    def _chosen(self, data: Any) -> ReferenceSet | None:
        """The references that a model will be shown, as far as they are known before its run."""
        if isinstance(data, ReferenceData):
            return data.reference_set()
        return None if self._held_out is None else self.plan.load(self._held_out, self._reader)

    def _leave_out_known(self, data: ReferenceData, stage: str) -> None:
        if stage != "fit" and self.references:
            data.use_recorded(self.references)

    def _check_loaders(self, trainer: Trainer, nagl: Nagl, stage: str) -> None:
        if stage == "predict":
            # The only place where they are before processes that read have started.
            read_alike(trainer.predict_loop._data_source.instance)
        if stage == "fit" and (nagl.trains or not nagl.model.has_references):
            raise ValueError(
                "found loaders without a datamodule of anomalib, from which neither references nor episodes can be "
                "drawn, expected one: give engine.fit a datamodule, or call set_references of a model whose head is "
                "trained"
            )

    def _setup_plain(self, nagl: Nagl, data: AnomalibDataModule, stage: str) -> None:
        if stage == "fit" and nagl.trains:
            raise ValueError(
                f"found an untrained head and only {describe(data)} to learn from, expected a source of training "
                "episodes: give a trained head with --model.head, or --data ReferenceDataModule with "
                f"--data.source, or --model.variant {HEAD_FREE}, which needs no head, or --model.n_abnormal 0"
            )
        self._splits.take(data)
        if stage == "fit":
            self._held_out = self.plan.choose(data)
            self._reader = steady_reader(data, self._held_out, describe(data))
            self._removed = hold_out(data, self._held_out)
        elif self.references:
            exclude(data, find_copies(data, self.references))

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave after a run, and the data as it was."""
        super().teardown(trainer, pl_module, stage)
        self._splits.give_back()
        self._reader = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave after a run that failed, and the data as it was."""
        super().on_exception(trainer, pl_module, exception)
        self._splits.give_back()
        self._reader = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take references at once where no head is trained: whatever is saved or validated has them."""
        nagl: Nagl = pl_module
        if not nagl.trains:
            self.complete(trainer, nagl)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take the references anew while a head is trained: what residual mining makes of them depends on it."""
        nagl: Nagl = pl_module
        if nagl.trains if nagl.fitting else not nagl.model.has_references:
            self._take(trainer, nagl)

    def expect_references(self) -> None:
        """From now on, references that were taken before do not count."""
        self._taken = False

    def complete(self, trainer: Trainer, nagl: Nagl) -> bool:
        """Take the references of a fit unless they were taken; returns whether they were missing."""
        missing = not self._taken
        if missing:
            self._take(trainer, nagl)
        return missing

    def _take(self, trainer: Trainer, nagl: Nagl) -> None:
        nagl.model.encoder.ensure_weights()
        self._collect(trainer, nagl)
        self._write_record(trainer, nagl)
        self._taken = True

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take references where none were taken before, write down which are used, apply a threshold given now."""
        self._take_missing(trainer, pl_module)
        self._write_record(trainer, pl_module)
        self.apply_given(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take references where none were taken before, write down which are used, apply a threshold given now."""
        self.on_test_start(trainer, pl_module)

    def apply_given(self, nagl: Nagl, names: Container[str] = ("threshold", "region")) -> None:
        """A threshold or a region given to the constructor stands above what a checkpoint holds."""
        if "region" in names and nagl.region is not None and nagl.model.has_references:
            with torch.inference_mode(False), torch.no_grad():
                if nagl.model.set_region(nagl.region):
                    _calibrate(nagl, nagl.model.adapt_again(nagl.bank_limit, _keys(self.references)))
        number, post = nagl.threshold, nagl.post_processor
        if "threshold" in names and isinstance(number, float) and isinstance(post, ReferencePostProcessor):
            post.set_thresholds(image=number)

    def _take_missing(self, trainer: Trainer, nagl: Nagl) -> None:
        """A trained head, or none at all, can be shown references without a run of its own to take them."""
        data = datamodule_of(trainer)
        if nagl.model.has_references or not isinstance(data, ReferenceData):
            return
        ready = nagl.head_trained or not nagl.variant_given or not data.abnormal_shots
        if data.brings_references and ready:
            self._collect(trainer, nagl)

    def _collect(self, trainer: Trainer, nagl: Nagl) -> None:
        """Take the references that the data chose, or those that were held out of it."""
        data = datamodule_of(trainer)
        if isinstance(data, ReferenceData):
            self.set_references(nagl, data.reference_set(), data.selection_record(), data.removed)
        elif isinstance(data, AnomalibDataModule) and self._held_out is not None:
            self.set_references(
                nagl, self.plan.load(self._held_out, self._reader), self.plan.selection(data), self._removed
            )

    def _write_record(self, trainer: Trainer, nagl: Nagl) -> None:
        """Write ``references.json`` into the folder of this run."""
        if nagl.model.has_references and self.manifest and trainer.is_global_zero:
            write_record(self.manifest, trainer.default_root_dir)


def _keys(records: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Hashes of each reference and its mask."""
    return tuple(one["sha256"] + one.get("mask_sha256", "") for one in records)


def _calibrate(nagl: Nagl, tokens: ReferenceTokens) -> bool:
    """Find the scales by the references that a model has, where they are to be found by these; returns whether."""
    post = nagl.post_processor
    if not (isinstance(post, ReferencePostProcessor) and post.from_references):
        return False
    post.calibrate(calibrate(nagl.model, tokens, nagl.bank_limit, nagl.model.state))
    return True
