"""Datasets and datamodules of anomalib: their images, which of them leave the evaluation, and their categories."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName
from anomalib.data.utils.path import validate_and_resolve_path as resolve
from rich.progress import track

from anomalib_nagl.plugin.folder_masks import with_paired_masks
from anomalib_nagl.plugin.reading import ImageFolder
from anomalib_nagl.references.images import image_hash, load_mask, read_header
from anomalib_nagl.references.sample import mask_files
from anomalib_nagl.references.sampling import Sample, SupportSet, draw

logger = logging.getLogger(__name__)
LISTED = 6  # references that are named in the log
MANY = 500  # images whose reading takes long enough to show a progress bar


def samples(dataset: AnomalibDataset, label: LabelName) -> list[Sample]:
    """All images of a dataset with one label, sorted by path."""
    table: pd.DataFrame = dataset.samples
    table = table[table.label_index == int(label)].sort_values("image_path")
    types = table["label"] if "label" in table else table["image_path"].map(lambda path: Path(path).parent.name)
    masks = table["mask_path"] if "mask_path" in table else [None] * len(table)
    folders = _defect_folders(dataset) if label == LabelName.ABNORMAL else []
    found = []
    for image, listed, defect in zip(table["image_path"], masks, types, strict=True):
        files = mask_files(listed)
        if label == LabelName.NORMAL:  # anomalib's BTech names masks of good images that the set does not have
            files = tuple(file for file in files if Path(file).is_file())
        kind = _folder_type(str(image), folders) or str(getattr(defect, "value", defect))
        found.append(Sample(str(image), files[0] if files else None, kind, files[1:]))
    return found


def _defect_folders(dataset: AnomalibDataset) -> list[Path]:
    """The folders of defective images of anomalib's ``Folder``, the deepest first, when there are several."""
    origin = getattr(dataset, "origin", None) or dataset
    given = getattr(origin, "abnormal_dir", None)
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:
        return []
    folders = [resolve(path, getattr(origin, "root", None)) for path in given]
    return sorted(folders, key=lambda folder: len(folder.parts), reverse=True)


def _folder_type(image: str, folders: Sequence[Path]) -> str | None:
    """The name of the first of these folders that an image lies in."""
    place = Path(image).resolve()
    return next((folder.name for folder in folders if place.is_relative_to(folder.resolve())), None)


def choose_references(
    datamodule: AnomalibDataModule, n_normal: int, n_abnormal: int, seed: int, strategy: str = "uniform"
) -> SupportSet:
    """Draw normal references from the train split and abnormal ones from the test split of a set-up datamodule.

    The same seed and ``strategy`` (``sampling``) draw the same images. Raises ValueError when there are fewer than
    asked for, none are asked for, or a normal candidate comes with a mask that marks something.
    """
    if n_normal < 0 or n_abnormal < 0 or n_normal + n_abnormal == 0:
        raise ValueError(
            f"found n_normal={n_normal} and n_abnormal={n_abnormal}, expected counts of at least 0, not both 0: "
            "ask for at least one reference"
        )
    normal = samples(datamodule.train_data, LabelName.NORMAL)
    abnormal = samples(datamodule.test_data, LabelName.ABNORMAL)
    for label, pool, count, split in (
        ("normal", normal, n_normal, "train"),
        ("abnormal", abnormal, n_abnormal, "test"),
    ):
        if len(pool) < count:
            raise ValueError(
                f"found {len(pool)} {label} images in the {split} split of {describe(datamodule)}, expected at least "
                f"{count} (n_{label}): ask for fewer references or add images"
            )
    chosen = draw(normal, abnormal, n_normal, n_abnormal, seed, strategy, describe(datamodule))
    for sample in chosen.normal:
        if sample.masks and bool(load_mask(sample.masks, sample.image).any()):
            raise ValueError(
                f"found a mask with marked pixels on the normal image {sample.image}: {sample.mask}; expected none: "
                "remove the mask or move the image to the abnormal ones"
            )
    return chosen


def hold_out(datamodule: AnomalibDataModule, support: SupportSet) -> int:
    """Take the chosen references and their copies out of validation and test, and say so.

    Returns how many test images left; ValueError if none is left.
    """
    before = len(datamodule.test_data)
    removed = exclude(datamodule, support.paths)
    copies = exclude(datamodule, copies_of(datamodule, support.paths))
    left = len(datamodule.test_data)
    if support.paths:
        counts = f"{len(support.normal)} normal and {len(support.abnormal)} abnormal images"
        listed = f" ({support})" if len(support.paths) <= LISTED else ""
        logger.info("References of %s: %s%s.", describe(datamodule), counts, listed)
    if before:
        logger.info(
            "%d references and %d copies of them left the test set, which keeps %d images.", removed, copies, left
        )
    if not left and before:
        raise ValueError(
            f"found no test image of {describe(datamodule)} besides the references, expected at least one: "
            "ask for fewer references or add images"
        )
    for name, split in (("test", datamodule.test_data), ("validation", getattr(datamodule, "val_data", None))):
        labels = set(split.samples.label_index) if split is not None else set()
        if len(labels & {0, 1}) == 1 and not isinstance(datamodule, ImageFolder):
            logger.warning(
                "The %s set of %s holds images of one kind only: its thresholds or metrics mean little.",
                name, describe(datamodule),
            )  # fmt: skip
    return removed + copies


def exclude(datamodule: AnomalibDataModule, paths: Iterable[str]) -> int:
    """Remove images from the validation and test splits in place; returns how many test images were removed."""
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
    """Paths of evaluated images with the pixels of one of these files, whatever they are called."""
    paths = set(paths)
    sizes = {read_header(path).upright for path in paths}
    return _same_pixels(datamodule, {image_hash(path) for path in paths}, sizes) - paths


def find_copies(datamodule: AnomalibDataModule, records: Iterable[Mapping[str, str]]) -> set[str]:
    """Paths of evaluated images with the pixels of a reference on record, whatever they are called."""
    return _same_pixels(datamodule, {record["sha256"] for record in records}, set())


def _same_pixels(datamodule: AnomalibDataModule, hashes: set[str], sizes: set[tuple[int, int]]) -> set[str]:
    """Evaluated images with one of these hashes; only those of one of these sizes are decoded, if any are given."""
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


def own_copy(datamodule: AnomalibDataModule) -> AnomalibDataModule:
    """A datamodule of the same settings and splits that may be set up, or set otherwise, without touching the other."""
    found = copy.copy(datamodule)
    vars(found).pop("setup", None)  # see ``borrowed_splits``
    found.trainer = None
    return with_paired_masks(found)


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
            clone = own_copy(datamodule)
            if categories is not None and name != clone.category:
                clone.category, clone._is_setup = name, False
            clone.seed = seed if clone.seed is None else clone.seed
            expanded.append(clone)
    return expanded


def shared_images(paths: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of the paths that are one of the other images: the same file, or another one with the same pixels.

    Only images of equal sizes are decoded.
    """
    paths, others = sorted(set(paths)), sorted(set(others))
    files = {str(Path(path).resolve()) for path in others}
    found = {path for path in paths if str(Path(path).resolve()) in files}
    ours, theirs = _by_size(path for path in paths if path not in found), _by_size(others)
    common = ours.keys() & theirs.keys()
    alike, known = (sorted(path for size in common for path in group[size]) for group in (ours, theirs))
    many = len(alike) + len(known) > MANY
    shown = track([*known, *alike], "Looking for copies among the sources", disable=not many, transient=True)
    hashes = {path: image_hash(path) for path in shown}
    taken = {hashes[path] for path in known}
    return found | {path for path in alike if hashes[path] in taken}


def _by_size(paths: Iterable[str]) -> dict[tuple[int, int], list[str]]:
    """Image files by width and height; what only a reader of its own can read is left out."""
    groups: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        with suppress(ValueError, OSError):
            groups.setdefault(read_header(path).upright, []).append(path)
    return groups


def _is_category(folder: Path) -> bool:
    return not folder.name.startswith(".") and (folder / "train").is_dir()


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
    if root.is_dir():  # those of one's own, though some be called as the published ones
        present += sorted(path.name for path in root.iterdir() if path.name not in listed and _is_category(path))
    if not present and not listed:
        raise ValueError(
            f"found no categories in {describe(datamodule)} at {root}, expected at least one: "
            "name the source_categories, or give one datamodule for each source"
        )
    return present or listed
