"""Where references come from, and what is done with them before a model sees them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule

from anomalib_nagl.plugin.datasets import choose_references, describe
from anomalib_nagl.plugin.reading import ImageFolder
from anomalib_nagl.plugin.sample_reader import SampleReader
from anomalib_nagl.references.folders import ReferenceFiles, scan
from anomalib_nagl.references.names import MASK_POLICIES, STRATEGIES, check_name, check_synthetic
from anomalib_nagl.references.record import Recorded, read_record
from anomalib_nagl.references.reference_set import ReferenceSet
from anomalib_nagl.references.sampling import SupportSet, draw
from anomalib_nagl.references.synthetic import SYNTHETIC, with_synthetic

logger = logging.getLogger(__name__)
_RECORDED = ("seed", "strategy", "masks", "synthetic_abnormal", "synthetic")  # settings that a record brings along


@dataclass(frozen=True)
class ReferencePlan:
    """The part of a run's settings that decides its references; see ``ReferenceDataModule`` for each.

    ``files`` are those of a folder, None when a target provides them. Raises ValueError on settings that make no sense.
    """

    n_normal: int | None = None
    n_abnormal: int | None = None
    seed: int = 0
    strategy: str = "uniform"
    masks: str = "auto"
    synthetic_abnormal: int = 0
    synthetic: str = "cut_paste"
    files: ReferenceFiles | None = None
    recorded: Recorded | None = None

    def __post_init__(self) -> None:
        """Check names."""
        check_name("masks", self.masks, MASK_POLICIES)
        check_name("strategy", self.strategy, STRATEGIES)
        check_synthetic(self.synthetic_abnormal, self.synthetic)

    @classmethod
    def make(cls, references: str | Path | None, **settings: Any) -> ReferencePlan:
        """Settings as a person gives them; a ``references.json`` brings its own.

        ValueError lists what is wrong with the folder, or which recorded images are missing or have changed.
        """
        if references is None or Path(references).suffix != ".json":
            files = None if references is None else scan(references).check()
            if files is not None:
                files.warn()
            return cls(**settings, files=files)
        recorded = read_record(references)
        own: dict[str, Any] = {name: recorded.selection[name] for name in _RECORDED if name in recorded.selection}
        logger.info("References as recorded in %s: %s.", references, recorded.selection)
        settings.update(own, n_normal=None, n_abnormal=None)  # all that are recorded
        return cls(**settings, files=recorded.files, recorded=recorded)

    def selection(self, target: AnomalibDataModule) -> dict[str, Any]:
        """How references are chosen, for the record."""
        if self.recorded is not None:
            return self.recorded.selection
        return {
            "drawn_from": describe(target) if self.files is None else "folder",
            "n_normal": 1 if self.n_normal is None and self.files is None else self.n_normal,
            "n_abnormal": 1 if self.n_abnormal is None and self.files is None else self.n_abnormal,
            "seed": self.seed,
            "strategy": self.strategy,
            "masks": self.masks,
            "synthetic_abnormal": self.synthetic_abnormal,
            "synthetic": self.synthetic,
        }

    @property
    def abnormal_shots(self) -> int:
        """How many abnormal references there will be, synthetic ones included."""
        real = 1 if self.files is None else len(self.files.abnormal)
        return (real if self.n_abnormal is None else self.n_abnormal) + self.synthetic_abnormal

    def choose(self, target: AnomalibDataModule) -> SupportSet:
        """Pick the images, from the folder or from a set-up target; ValueError when there are too few."""
        if self.files is None and isinstance(target, ImageFolder):
            return SupportSet()  # a checkpoint brings the references
        if self.files is None:
            normal, abnormal = (1 if count is None else count for count in (self.n_normal, self.n_abnormal))
            return choose_references(target, normal, abnormal, self.seed, self.strategy)
        files = self.files
        counts = self.n_normal, self.n_abnormal
        return draw(files.normal, files.abnormal, *counts, self.seed, self.strategy, files.root)

    def load(self, support: SupportSet, reader: SampleReader | None) -> ReferenceSet:
        """Read the chosen images as queries are read and add synthetic ones.

        ValueError names the first file that will not do.
        """
        loaded = support.load(self.masks, None if reader is None or reader.plain else reader)
        references = with_synthetic(loaded, self.synthetic_abnormal, self.synthetic, self.seed)
        if self.recorded is not None:
            now = {record["sha256"] for record in references.records()}
            for entry in self.recorded.entries:
                if entry.get("mask_source") == SYNTHETIC and entry["sha256"] not in now:
                    logger.warning(
                        "%s came out otherwise than recorded: other versions of libraries?", entry.get("name")
                    )
        return references
