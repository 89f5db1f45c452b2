"""The images of a category, as anomalib's datamodules list them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anomalib.data
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName

from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io.errors import suggest
from anomalib_nagl.plugin.datasets import all_categories, samples
from anomalib_nagl.plugin.registration import register
from anomalib_nagl.references.sampling import Sample


@dataclass(frozen=True)
class Category:
    """Images of one category, sorted by path: normal ones of the train split, good and defective ones to score."""

    name: str
    root: str
    normal: tuple[Sample, ...]
    good: tuple[Sample, ...]
    defects: tuple[Sample, ...]

    @property
    def types(self) -> list[str]:
        """Defect types, sorted."""
        return sorted({sample.defect_type for sample in self.defects})

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image."""
        return self.normal + self.good + self.defects

    @cached_property
    def rows(self) -> dict[str, int]:
        """Places in ``samples`` by path."""
        return {sample.image: row for row, sample in enumerate(self.samples)}

    def short(self, sample: Sample) -> str:
        """The path of an image as seen from the data's root, POSIX."""
        path = Path(sample.image)
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


def open_category(settings: Settings, name: str, part: str = "all") -> AnomalibDataModule:
    """A datamodule of a category, set up.

    When heads are trained on the target itself (``settings.halved``), the ``second`` half of its images, by path and
    defect type, is evaluated, for every source alike, and the ``first`` is what these heads are trained on; otherwise
    both are all. Raises ValueError when there is no such category.
    """
    register()
    kind = getattr(anomalib.data, settings.format, None)
    if not (isinstance(kind, type) and issubclass(kind, AnomalibDataModule)):
        known = [name for name, value in vars(anomalib.data).items() if isinstance(value, type)]
        raise ValueError(
            f"found format={settings.format!r}, expected a datamodule of anomalib{suggest(settings.format, known)}"
        )
    arguments: dict[str, Any] = {"root": settings.data, "category": name}
    module = kind(**arguments)
    # Rendered categories are known by name; anomalib would download a data set in which another has no folder.
    if settings.format != "DrawnPictures" and name not in (known := all_categories(module)):
        raise ValueError(
            f"found no category {name!r} in {settings.data}, expected one of {', '.join(known)}{suggest(name, known)}"
        )
    module.seed = 0 if module.seed is None else module.seed
    module.prepare_data()
    module.setup()
    if settings.halved and part != "all":
        _keep_half(module, first=part == "first")
    return module


def load_category(settings: Settings, name: str) -> Category:
    """List the images of a category that are evaluated; ValueError when one kind is missing."""
    module = open_category(settings, name, "second")
    found = Category(
        name,
        str(settings.data),
        tuple(samples(module.train_data, LabelName.NORMAL)),
        tuple(Sample(s.image, s.mask, GOOD) for s in samples(module.test_data, LabelName.NORMAL)),
        tuple(samples(module.test_data, LabelName.ABNORMAL)),
    )
    for kind in ("normal", "good", "defects"):
        if not getattr(found, kind):
            raise ValueError(
                f"found no {kind} images of category {name!r} in {settings.data}, expected some: it cannot be "
                "evaluated, leave it out of targets"
            )
    return found


def check_shots(settings: Settings, categories: Sequence[Category]) -> None:
    """Raise ValueError unless every category has the references of the largest shot, and defects left to score."""
    n, a = settings.largest
    for category in categories:
        if len(category.normal) < n or len(category.defects) <= a:
            raise ValueError(
                f"found {len(category.normal)} normal and {len(category.defects)} abnormal images of category "
                f"{category.name!r}, expected at least {n}, and more than {a}, for shots={', '.join(settings.shots)}: "
                "ask for fewer, or leave it out of targets"
            )


def _keep_half(module: AnomalibDataModule, first: bool) -> None:
    for name in ("train_data", "val_data", "test_data"):
        dataset: AnomalibDataset | None = getattr(module, name, None)
        if dataset is None:
            continue
        paths = [str(path) for path in dataset.samples.image_path]
        groups: dict[str, list[str]] = {}
        for path in sorted(paths):
            groups.setdefault(str(Path(path).parent), []).append(path)
        kept = {
            path
            for group in groups.values()
            for path in (group[: len(group) // 2] if first else group[len(group) // 2 :])
        }
        dataset.subsample([i for i, path in enumerate(paths) if path in kept], inplace=True)
    module._is_setup = True  # else a trainer would set it up anew, with every image
