"""anomalib's ``Folder`` with masks paired by name.

Its own dataset sorts images and masks and lays the two lists side by side: one mask that is missing, or names without
leading zeros, and none fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder
from anomalib.data.utils import LabelName
from anomalib.data.utils.path import validate_and_resolve_path as resolve

from anomalib_nagl.references.folders import pair_masks
from anomalib_nagl.references.images import is_image_file
from anomalib_nagl.references.problem import Problem

_SHOWN = 5  # problems listed in an error


class PairedFolder(Folder):
    """A ``Folder`` that finds the masks of defects by their stem; ValueError names what has no mask, or is none.

    A mask belongs to the image whose stem its own stem repeats, alone or followed by one of ``_-.`` and anything.
    Masks that are named in another way are laid beside the images in order, as anomalib does, if they fit so.
    """

    def _setup(self, _stage: str | None = None) -> None:
        given, self.mask_dir = self.mask_dir, None
        try:
            super()._setup(_stage)
        finally:
            self.mask_dir = given
        folders = _folders(given, self.root)
        defective = self.test_data.samples.label_index == LabelName.ABNORMAL
        if not folders or not defective.any():
            return
        images = [Path(path) for path in self.test_data.samples.image_path[defective]]
        found = _paired(images, _folders(self.abnormal_dir, self.root), folders)
        for split in (self.train_data, self.test_data):
            split.mask_dir = given  # type: ignore[attr-defined]  # of anomalib's FolderDataset
            _write(split, found)


def with_paired_masks(datamodule: AnomalibDataModule) -> AnomalibDataModule:
    """The same datamodule, of the class above if it is anomalib's own ``Folder``; no copy."""
    if type(datamodule) is Folder:
        datamodule.__class__ = PairedFolder
    return datamodule


def _folders(given: Any, root: Any) -> list[Path]:
    if given is None:
        return []
    listed = [given] if isinstance(given, str | Path) or not isinstance(given, Sequence) else list(given)
    return [resolve(path, root) for path in listed]


def _paired(images: list[Path], homes: list[Path], folders: list[Path]) -> dict[str, list[str]]:
    """Mask files of each image; ValueError unless each has at least one and none is left over."""
    problems: list[Problem] = []
    files = {folder: _masks(folder) for folder in folders}
    if len(homes) == len(folders):
        groups = list(zip(([home] for home in homes), ([folder] for folder in folders), strict=True))
    else:
        groups = [(homes, folders)]
    found: dict[str, list[str]] = {}
    for own, theirs in groups:
        below = {path: path.parent.relative_to(home) for home in own for path in images if path.is_relative_to(home)}
        masks = {path: path.parent.relative_to(folder) for folder in theirs for path in files[folder]}
        for image, fitting in pair_masks(below, masks, problems):
            found.setdefault(str(image), []).extend(map(str, fitting))
    wrong = [f"{problem.path} is {problem.found}" for problem in problems if problem.fatal]
    wrong += [f"{image} has no mask" for image, fitting in found.items() if not fitting]
    every = sorted(path for listed in files.values() for path in listed)
    if wrong and (in_order := _in_order(sorted(images), every)):
        return in_order
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"found {len(images)} defective images and {len(every)} masks in {', '.join(map(str, folders))} that do "
            f"not belong together: {'; '.join(wrong[:_SHOWN])}{more}; expected a mask for each image, of the same "
            "name, white on the defect: add it, rename it, or remove what is left over"
        )
    return found


def _masks(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and is_image_file(path))
    return [path for path in found if not path.name.startswith(".")]


def _in_order(images: list[Path], masks: list[Path]) -> dict[str, list[str]]:
    """Images and masks side by side, where the name of each image is part of that of its mask; else nothing."""
    if len(images) != len(masks) or not all(image.stem in mask.stem for image, mask in zip(images, masks, strict=True)):
        return {}
    return {str(image): [str(mask)] for image, mask in zip(images, masks, strict=True)}


def _write(split: AnomalibDataset, found: dict[str, list[str]]) -> None:
    """Put masks into the table of a split."""
    table = split.samples.copy()
    masks = [found.get(str(path), [""]) for path in table.image_path]
    table["mask_path"] = [paths[0] if len(paths) == 1 else paths for paths in masks]
    table.attrs["task"] = "segmentation"
    split.samples = table
