"""Where references come from, and what is done with them before a model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anomalib.data import AnomalibDataModule

from anomalib_nagl.data.reading import PictureFolder
from anomalib_nagl.data.selection import Choice, Sample, choose
from anomalib_nagl.folders import ReferenceFiles, scan
from anomalib_nagl.references import MASK_POLICIES, ReferenceSet


@dataclass(frozen=True)
class ReferencePlan:
    """The part of a run's settings that decides its references; see ``ReferenceDataModule`` for each.

    ``files`` are those of a folder, None when a target provides them. Raises ValueError on settings that make no sense.
    """

    n_normal: int | None = None
    n_abnormal: int | None = None
    seed: int = 0
    masks: str = "auto"
    files: ReferenceFiles | None = None

    def __post_init__(self) -> None:
        """Check names."""
        if self.masks not in MASK_POLICIES:
            raise ValueError(f"found masks={self.masks!r}, expected one of {', '.join(MASK_POLICIES)}")

    @classmethod
    def make(
        cls, references: str | Path | None, n_normal: int | None, n_abnormal: int | None, seed: int, masks: str
    ) -> ReferencePlan:
        """Settings as a person gives them; ValueError lists what is wrong with the folder."""
        files = None if references is None else scan(references).check()
        return cls(n_normal, n_abnormal, seed, masks, files)

    @property
    def abnormal_shots(self) -> int:
        """How many abnormal references there will be."""
        if self.n_abnormal is not None:
            return self.n_abnormal
        return 1 if self.files is None else len(self.files.abnormal)

    def choose(self, target: AnomalibDataModule) -> Choice:
        """Pick the pictures, from the folder or from a set-up target; ValueError when there are too few."""
        if self.files is None and isinstance(target, PictureFolder):
            return Choice((), ())  # a checkpoint brings the references
        if self.files is None:
            normal, abnormal = (1 if count is None else count for count in (self.n_normal, self.n_abnormal))
            return choose(target, normal, abnormal, self.seed)
        files = self.files
        normal_pool = [Sample(path, None, "good") for path in files.normal]
        abnormal_pool = [Sample(*file) for file in files.abnormal]
        return Choice.draw(normal_pool, abnormal_pool, self.n_normal, self.n_abnormal, self.seed, files.root)

    def load(self, choice: Choice) -> ReferenceSet:
        """Read the chosen pictures; ValueError names the first file that will not do."""
        return choice.load(self.masks)
