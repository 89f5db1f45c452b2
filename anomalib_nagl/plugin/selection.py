"""Which pictures become references, and which categories a source has."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName
from rich.progress import track

from anomalib_nagl.plugin.reading import PictureFolder
from anomalib_nagl.references.images import image_hash, load_mask, read_header
from anomalib_nagl.references.reference_set import ReferenceSet, load_references

logger = logging.getLogger(__name__)
MANY = 500  # pictures whose reading takes long enough to show a progress bar


@dataclass(frozen=True)
class Sample:
    """One picture of a dataset: its path, its mask's path (None without one) and its defect type."""

    image: str
    mask: str | None
    defect_type: str


@dataclass(frozen=True)
class Choice:
    """The pictures that were chosen as references."""

    normal: tuple[Sample, ...]
    abnormal: tuple[Sample, ...]

    @classmethod
    def draw(
        cls,
        normal: Sequence[Sample],
        abnormal: Sequence[Sample],
        n_normal: int | None,
        n_abnormal: int | None,
        seed: int,
        place: str,
    ) -> Choice:
        """As many of these pictures as asked for, drawn by ``seed``, or all; ValueError when ``place`` has fewer."""
        drawn = []
        for stream, (kind, pool, count) in enumerate(
            (("normal", normal, n_normal), ("abnormal", abnormal, n_abnormal))
        ):
            if count is not None and not 0 <= count <= len(pool):
                raise ValueError(
                    f"found {len(pool)} {kind} pictures in {place} and n_{kind}={count}, expected at least as many: "
                    f"add pictures, or leave n_{kind} out to take all"
                )
            drawn.append(tuple(pool) if count is None else spread_types(pool, count, _stream(seed, stream)))
        return cls(*drawn)

    @property
    def paths(self) -> frozenset[str]:
        """Paths of all chosen images."""
        return frozenset(sample.image for sample in self.normal + self.abnormal)

    def load(self, masks: str = "auto") -> ReferenceSet:
        """Read images and ``masks`` (``ReferenceSet.from_folder``); ValueError names the first that will not do."""
        return load_references(
            [s.image for s in self.normal],
            [s.image for s in self.abnormal],
            [s.mask for s in self.abnormal],
            [s.defect_type for s in self.abnormal],
            masks,
        )

    def __str__(self) -> str:
        """For people: every chosen picture."""
        listed = [f"normal {s.image}" for s in self.normal] + [f"{s.defect_type} {s.image}" for s in self.abnormal]
        return "; ".join(listed)


def samples(dataset: AnomalibDataset, label: LabelName) -> list[Sample]:
    """All pictures of a dataset with one label, sorted by path."""
    table: pd.DataFrame = dataset.samples
    table = table[table.label_index == int(label)].sort_values("image_path")
    types = table["label"] if "label" in table else table["image_path"].map(lambda path: Path(path).parent.name)
    masks = table["mask_path"] if "mask_path" in table else [None] * len(table)
    return [
        Sample(
            str(image),
            str(mask) if isinstance(mask, str | Path) and str(mask) else None,
            str(getattr(defect, "value", defect)),
        )
        for image, mask, defect in zip(table["image_path"], masks, types, strict=True)
    ]


def spread_types(candidates: Sequence[Sample], count: int, generator: np.random.Generator) -> tuple[Sample, ...]:
    """Draw ``count`` pictures without repetition, from as many defect types as possible."""
    shuffled = [candidates[i] for i in generator.permutation(len(candidates))]
    seen: dict[str, int] = {}
    turn = []
    for sample in shuffled:
        turn.append(seen.get(sample.defect_type, 0))
        seen[sample.defect_type] = turn[-1] + 1
    order = sorted(range(len(shuffled)), key=lambda i: turn[i])
    return tuple(shuffled[i] for i in order[:count])


def _stream(seed: int, number: int) -> np.random.Generator:
    """One of several streams, so that more references of one kind keep those of the other."""
    return np.random.default_rng([seed, number])


def choose(datamodule: AnomalibDataModule, n_normal: int, n_abnormal: int, seed: int) -> Choice:
    """Draw normal references from the train split and abnormal ones from the test split of a set-up datamodule.

    The same seed draws the same pictures. Raises ValueError when there are fewer than asked for, none are asked for, or
    a normal candidate comes with a mask that marks something.
    """
    if n_normal < 0 or n_abnormal < 0 or n_normal + n_abnormal == 0:
        raise ValueError(
            f"found n_normal={n_normal} and n_abnormal={n_abnormal}, expected counts of at least 0, not both 0: "
            "ask for at least one reference"
        )
    pools = {
        "normal": (samples(datamodule.train_data, LabelName.NORMAL), n_normal, "train"),
        "abnormal": (samples(datamodule.test_data, LabelName.ABNORMAL), n_abnormal, "test"),
    }
    for kind, (pool, count, split) in pools.items():
        if len(pool) < count:
            raise ValueError(
                f"found {len(pool)} {kind} images in the {split} split of {describe(datamodule)}, expected at least "
                f"{count} (n_{kind}): ask for fewer references or add pictures"
            )
    normal = spread_types(pools["normal"][0], n_normal, _stream(seed, 0))
    for sample in normal:
        if sample.mask is not None and bool(load_mask(sample.mask, sample.image).any()):
            raise ValueError(
                f"found a mask with marked pixels on the normal image {sample.image}: {sample.mask}; expected none: "
                "remove the mask or move the picture to the defective ones"
            )
    return Choice(normal, spread_types(pools["abnormal"][0], n_abnormal, _stream(seed, 1)))


def hold_out(datamodule: AnomalibDataModule, choice: Choice) -> int:
    """Take the chosen references and their copies out of validation and test, and say so.

    Returns how many test pictures left; ValueError if none is left.
    """
    before = len(datamodule.test_data)
    removed = exclude(datamodule, choice.paths)
    copies = exclude(datamodule, copies_of(datamodule, choice.paths))
    left = len(datamodule.test_data)
    logger.info(
        "References of %s: %s. %d of them left the test set, and %d copies; it keeps %d images.",
        describe(datamodule), choice, removed, copies, left,
    )  # fmt: skip
    if not left and before:
        raise ValueError(
            f"found no test picture of {describe(datamodule)} besides the references, expected at least one: "
            "ask for fewer references or add pictures"
        )
    for name, split in (("test", datamodule.test_data), ("validation", getattr(datamodule, "val_data", None))):
        labels = set(split.samples.label_index) if split is not None else set()
        if len(labels & {0, 1}) == 1 and not isinstance(datamodule, PictureFolder):
            logger.warning(
                "The %s set of %s holds pictures of one kind only: its thresholds or metrics mean little.",
                name, describe(datamodule),
            )  # fmt: skip
    return removed + copies


def exclude(datamodule: AnomalibDataModule, paths: Iterable[str]) -> int:
    """Remove pictures from the validation and test splits in place; returns how many test pictures were removed."""
    paths = set(paths)
    removed = 0
    for split in ("val_data", "test_data"):
        dataset: AnomalibDataset | None = getattr(datamodule, split, None)
        if dataset is None:
            continue
        keep = [i for i, path in enumerate(dataset.samples.image_path) if str(path) not in paths]
        if split == "test_data":
            removed = len(dataset) - len(keep)
        if len(keep) < len(dataset):
            dataset.subsample(keep, inplace=True)
    return removed


def copies_of(datamodule: AnomalibDataModule, paths: Iterable[str]) -> set[str]:
    """Paths of evaluated pictures with the pixels of one of these files, whatever they are called."""
    paths = set(paths)
    sizes = {read_header(path).upright for path in paths}
    return _same_pixels(datamodule, {image_hash(path) for path in paths}, sizes) - paths


def find_copies(datamodule: AnomalibDataModule, records: Iterable[Mapping[str, str]]) -> set[str]:
    """Paths of evaluated pictures with the pixels of a reference on record, whatever they are called."""
    return _same_pixels(datamodule, {record["sha256"] for record in records}, set())


def _same_pixels(datamodule: AnomalibDataModule, hashes: set[str], sizes: set[tuple[int, int]]) -> set[str]:
    """Evaluated pictures with one of these hashes; only those of one of these sizes are decoded, if any are given."""
    splits = (getattr(datamodule, name, None) for name in ("val_data", "test_data"))
    evaluated = sorted({str(path) for split in splits if split is not None for path in split.samples.image_path})
    if sizes:
        evaluated = [path for path in evaluated if read_header(path).upright in sizes]
    many = len(evaluated) > MANY
    shown = track(evaluated, "Looking for copies of references", disable=not many, transient=True)
    return {path for path in shown if image_hash(path) in hashes}


def describe(datamodule: AnomalibDataModule) -> str:
    """Name of a datamodule for people, with its category."""
    return f"{datamodule.name} {datamodule.category}".strip()


def expand_sources(
    source: Sequence[AnomalibDataModule], categories: Sequence[str] | None, seed: int
) -> list[AnomalibDataModule]:
    """One datamodule for every source category, random splits of which follow ``seed``.

    ``categories`` None keeps the category of each source, ``["all"]`` takes every one that exists, other names are
    taken as they are. Raises ValueError when names are given for several sources.
    """
    if categories is not None and list(categories) != ["all"] and len(source) > 1:
        raise ValueError(
            f"found source_categories={list(categories)} with {len(source)} sources, expected one source: "
            "give each source its own category, or 'all'"
        )
    expanded: list[AnomalibDataModule] = []
    for datamodule in source:
        names = [datamodule.category] if categories is None else list(categories)
        for name in all_categories(datamodule) if names == ["all"] else names:
            clone = copy.deepcopy(datamodule)
            if categories is not None:
                clone.category = name
            clone.seed = seed if clone.seed is None else clone.seed
            expanded.append(clone)
    return expanded


def resolved(found: Iterable[str]) -> set[str]:
    """Paths without links and detours, to tell whether two are the same picture."""
    return {str(Path(path).resolve()) for path in found}


def all_categories(datamodule: AnomalibDataModule) -> list[str]:
    """Every category of a datamodule's dataset that is on disk; ValueError if it has none to choose from."""
    root = Path(str(getattr(datamodule, "root", "")))
    home = sys.modules[type(datamodule).__module__]
    datasets = [x for x in vars(home).values() if isinstance(x, type) and issubclass(x, AnomalibDataset)]
    # anomalib keeps the list of categories beside the dataset class; a module may import the class it derives from.
    datasets.sort(key=lambda dataset: dataset.__module__ != home.__name__)
    lists = [getattr(sys.modules[dataset.__module__], "CATEGORIES", ()) for dataset in datasets]
    listed = list(next((names for names in lists if names), ()))
    present = [name for name in listed if (root / name).is_dir()]
    if not present and root.is_dir():
        present = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    if not present and not listed:
        raise ValueError(
            f"found no categories in {describe(datamodule)} at {root}, expected at least one: "
            "name the source_categories, or give one datamodule for each source"
        )
    return present or listed
