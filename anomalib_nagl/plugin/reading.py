"""Datasets that read images as references are read, and a datamodule for images without labels."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageItem, MVTecLOCODataset, PredictDataset
from anomalib.data.utils import LabelName
from torchvision.tv_tensors import Image, Mask

from anomalib_nagl.io.image_formats import check_format
from anomalib_nagl.references.images import is_image_file, load_image, load_mask
from anomalib_nagl.references.sample import mask_files

SPLITS = ("train", "val", "test")


class ImageFileDataset(AnomalibDataset):
    """Reads the images of another dataset upright and scaled (``images.load_image``), its masks turned alike.

    anomalib's own reader ignores orientation and clips 16-bit values; references and queries must not differ in that.
    """

    origin: AnomalibDataset | None = None  # whose samples these are

    @classmethod
    def like(cls, dataset: AnomalibDataset) -> ImageFileDataset:
        """The same samples, augmentations and category; what is left out here stays in the other dataset."""
        found = cls(dataset.augmentations)
        found._samples = dataset.samples
        found._category = dataset.category
        # Kept alive: with the last of its objects, a dataset of synthetic anomalies deletes its images.
        found.origin = getattr(dataset, "origin", None) or dataset
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageFileDataset:
        """Copy the table, not its origin: a copy of synthetic anomalies deletes their images when it goes."""
        found = copy.copy(self)
        found._samples = None if self._samples is None else self._samples.copy()
        memo[id(self)] = found
        return found

    def __getitem__(self, index: int) -> ImageItem:
        """Image, label and, for segmentation, mask of one sample; ValueError names a file that will not do."""
        sample = self.samples.iloc[index]
        path, label, masks = str(sample.image_path), int(sample.label_index), mask_files(sample.get("mask_path"))
        image, mask = Image(load_image(path)), None
        if self.task == "segmentation" and label == LabelName.NORMAL:
            mask = Mask(torch.zeros(image.shape[-2:], dtype=torch.uint8))
        elif self.task == "segmentation" and label == LabelName.ABNORMAL:
            mask = Mask(load_mask(masks, path))
        if self.augmentations and mask is not None:
            image, mask = self.augmentations(image, mask)
        elif self.augmentations:
            image = self.augmentations(image)
        return ImageItem(
            image=image,
            gt_mask=mask,
            gt_label=None if label == LabelName.UNKNOWN else torch.tensor(label),
            image_path=path,
            mask_path=masks[0] if masks else None,
        )


class CheckedReader(AnomalibDataset):
    """What a copy of a dataset with a reader of its own is as well: files are looked at before the reader has them."""

    def __getitem__(self, index: int) -> ImageItem:
        """One sample as its reader reads it; ValueError names a file that no reader may have."""
        sample = self.samples.iloc[index]
        for path in (str(sample.get("image_path", "")), *mask_files(sample.get("mask_path"))):
            if path and not Path(path).is_dir():  # that of a film has its pictures in it
                check_format(path)
        item: Any = super().__getitem__(index)
        return item

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes that read: a class that was made here has no name there."""
        return _with_reader, (type(self).__mro__[2], vars(self))


@cache
def _checked(reader: type[AnomalibDataset]) -> type[AnomalibDataset]:
    return type(f"Checked{reader.__name__}", (CheckedReader, reader), {})


def _with_reader(reader: type[AnomalibDataset], content: dict[str, Any]) -> AnomalibDataset:
    kind = _checked(reader)
    found: AnomalibDataset = kind.__new__(kind)
    vars(found).update(content)
    return found


class ImagesToPredict(PredictDataset):
    """anomalib's dataset of a folder or file to predict, its images read as references are read."""

    def __getitem__(self, index: int) -> ImageItem:
        """Image of a file; ValueError names one that will not do."""
        path = str(self.image_filenames[index])
        image = Image(load_image(path))
        return ImageItem(image=self.transform(image) if self.transform else image, image_path=path)


def read_alike(loaders: Any) -> None:
    """Let loaders that were given to a run read files as references are read, where anomalib would read them."""
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        dataset = getattr(loader, "dataset", None)
        if type(dataset) is PredictDataset:  # a loader takes no other dataset once it is made
            dataset.__class__ = ImagesToPredict


def reads_plainly(dataset: AnomalibDataset) -> bool:
    """Whether a dataset reads files as anomalib does, and not with a reader of its own."""
    readers = (AnomalibDataset.__getitem__, MVTecLOCODataset.__getitem__, ImageFileDataset.__getitem__)
    return type(dataset).__getitem__ in readers


def served(dataset: AnomalibDataset) -> AnomalibDataset:
    """A copy with a table of its own, which reads as references are read unless it has a reader of its own."""
    if reads_plainly(dataset):
        return ImageFileDataset.like(dataset)
    if isinstance(dataset, CheckedReader):
        return copy.copy(dataset)
    return _with_reader(type(dataset), vars(dataset))


def first_of(dataset: AnomalibDataset) -> AnomalibDataset:
    """A copy that holds the first image alone."""
    found = served(dataset)
    found._samples = dataset.samples.iloc[:1].reset_index(drop=True)
    return found


class ImageFolder(AnomalibDataModule):
    """Images to inspect, without labels: all those below ``pictures``, or none at all.

    ``known`` are normal images: what other models train on, and what a validation loop runs over; ``part`` is what the
    references are of. Raises ValueError when the folder holds no image.
    """

    def __init__(
        self, pictures: str | Path | None, known: Iterable[str], part: str = "references", eval_batch_size: int = 8
    ) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=eval_batch_size, num_workers=0)
        self.pictures, self.known, self.part = pictures, list(known), part

    @property
    def name(self) -> str:  # type: ignore[override]  # anomalib's is read-only too
        """Name of the folder, or of the part where there is none: results are filed under it."""
        return self.part if self.pictures is None else Path(self.pictures).resolve().stem

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = _dataset(self.known, LabelName.NORMAL, "train")
        self.val_data = _dataset(self.known, LabelName.NORMAL, "val")
        self.test_data = _dataset(self._inspected(), LabelName.UNKNOWN, "test")

    def _inspected(self) -> list[str]:
        if self.pictures is None:
            return []
        root = Path(self.pictures)
        found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        found = [path for path in found if is_image_file(path) and not path.name.startswith(".")]
        if not found:
            raise ValueError(f"found no image in {root}, expected at least one to inspect: check pictures")
        return [str(path) for path in found]

    def _create_test_split(self) -> None:
        """There are no labels to split by."""

    def _create_val_split(self) -> None:
        """The known images are the validation split."""


def _dataset(paths: list[str], label: LabelName, split: str) -> ImageFileDataset:
    table = pd.DataFrame({"image_path": paths, "label_index": int(label), "split": split, "mask_path": ""})
    table.attrs["task"] = "classification"
    dataset = ImageFileDataset()
    dataset.samples = table
    return dataset
