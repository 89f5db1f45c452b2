"""What a model and its datamodule agree on before a fit: a plan one way, references the other.

Neither reads the other's attributes: the model hands a frozen plan over, and asks for what ``ReferenceData`` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.metrics.evaluator import Evaluator
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_nagl.plugin.head_settings import settle_variant
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor, transform_of
from anomalib_nagl.references.reference_set import ReferenceSet

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

Mode = Literal["episodes", "references"]


@dataclass(frozen=True)
class FitPlan:
    """What a datamodule shall serve during one fit.

    ``mode`` "episodes" is a head to train, "references" one that is only shown references: a single batch will do.
    ``selection`` says which epoch's head is kept ("last" needs no validation episodes, "paper" takes those of the
    target), ``use_tokens`` whether rows of a token table stand in for images where ``resize``, the model's own, is
    known. Unless ``needs_validation``, one validation image is enough to take references by. Plans are equal when the
    resizes they describe are.
    """

    mode: Mode
    selection: str
    use_tokens: bool
    resize: Resize | None = field(compare=False)
    needs_validation: bool
    # Two transforms of the same settings are not equal, so their settings are compared instead.
    resize_settings: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Note what the resize is compared by."""
        object.__setattr__(self, "resize_settings", repr(self.resize))


@runtime_checkable
class ReferenceData(Protocol):
    """What a datamodule offers a model that is shown references; ``ReferenceDataModule`` does."""

    removed: int  # tested images that were left out because they are references, known once ``setup`` has run

    @property
    def abnormal_shots(self) -> int:
        """How many abnormal references there will be; known from the start."""

    @property
    def brings_references(self) -> bool:
        """Whether references are given and not drawn from a labelled target, so that a test may take them too."""

    @property
    def has_source(self) -> bool:
        """Whether there is anything to train a head on; without it a model keeps the trained head that it has."""

    def prepare_for(self, plan: FitPlan) -> None:
        """Serve what ``plan`` asks for, from ``prepare_data`` to the end of this fit; without a plan, normal images."""

    def reference_set(self) -> ReferenceSet:
        """Read the chosen references; ValueError names the first file that will not do."""

    def selection_record(self) -> dict[str, Any]:
        """How the references were chosen, in plain values."""

    def use_recorded(self, records: Sequence[Mapping[str, str]]) -> None:
        """Leave out the references that a model has, instead of choosing others, from now to the end of this run."""

    def validation_loaders(self, epoch: int) -> Mapping[str, DataLoader[Any]]:
        """Episodes by held-out category to judge the head of an epoch by; empty when there are none."""


def plan_fit(nagl: Nagl) -> FitPlan | None:
    """Plan the fit of a model that is about to run, and tell its data; None when the run is no fit."""
    if not nagl.fitting:
        return None
    data = datamodule_of(nagl.trainer)
    offered = (data.abnormal_shots, data.has_source) if isinstance(data, ReferenceData) else (nagl.n_abnormal, False)
    settle_variant(nagl, *offered)
    plan = _plan(nagl, *offered)
    if isinstance(data, ReferenceData):
        data.prepare_for(plan)
    return plan


def _plan(nagl: Nagl, abnormal_shots: int, has_source: bool) -> FitPlan:
    """The plan for a model that will be shown so many abnormal references."""
    ready = nagl.adapts or not abnormal_shots or (nagl.head_trained and not has_source)
    resizes: list[Any] = extract_transforms_by_type(transform_of(nagl.pre_processor), Resize)
    by_references = isinstance(nagl.post_processor, ReferencePostProcessor) and nagl.post_processor.from_references
    measured = isinstance(nagl.evaluator, Evaluator) and len(nagl.evaluator.val_metrics) > 0
    return FitPlan(
        mode="references" if ready else "episodes",
        selection=nagl.selection,
        # Tokens are of images that our pre-processor made, no one else's.
        use_tokens=nagl.token_cache and isinstance(nagl.pre_processor, NaglPreProcessor),
        resize=resizes[0] if resizes else None,
        needs_validation=measured or not by_references,
    )


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The datamodule of a run, None when it was given loaders only."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's data connector
