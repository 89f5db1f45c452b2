"""Reading single images as a datamodule serves them: by the reader of its dataset, with its transforms."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from torch import Tensor
from torchvision.transforms.v2 import Resize, Transform

from anomalib_nagl.plugin.pre_processing import transform_of
from anomalib_nagl.plugin.randomness import seeded
from anomalib_nagl.plugin.reading import reads_plainly, served
from anomalib_nagl.references.sampling import Sample, SupportSet

logger = logging.getLogger(__name__)
PROBES = 4  # readings of an image that have to be equal


class SampleReader:
    """Reads images and masks as the splits of a set-up datamodule do, with ``transform`` in place of theirs.

    Images that are in no split are read by the dataset that serves the queries.
    """

    def __init__(self, datamodule: AnomalibDataModule, transform: Transform | None) -> None:
        found = [getattr(datamodule, f"{name}_data", None) for name in ("test", "train", "val")]
        self._splits = [served(split) for split in found if split is not None]
        self.transform = transform

    @property
    def plain(self) -> bool:
        """Whether files come out as they are."""
        return self.transform is None and all(reads_plainly(split) for split in self._splits)

    def __call__(self, sample: Sample, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Image, float (3, H, W), and when ``masked`` mask (H, W), 0/1; ValueError names a file that will not do."""
        dataset, row = self._find(sample)
        row.attrs["task"] = "segmentation" if masked else "classification"
        one = copy.copy(dataset)
        one._samples, one.augmentations = row, self.transform
        item: Any = one[0]
        image = torch.as_tensor(item.image).as_subclass(Tensor).float()
        mask = item.gt_mask if masked else None
        if mask is not None:
            mask = (torch.as_tensor(mask).as_subclass(Tensor).reshape(image.shape[-2:]) != 0).to(torch.uint8)
        return image.contiguous(), mask

    def check_steady(self, sample: Sample, name: str) -> None:
        """Raise ValueError when an image of ``name`` comes out otherwise from one reading to the next."""
        chance = next(by_chance(self.transform), None)
        if chance is None and not self.plain and not self._is_steady(sample):
            chance = "its dataset" if self.transform is None else type(self.transform).__name__
        if chance is not None:
            raise ValueError(
                f"found transforms or a reader of {name} that change images at random ({chance}), expected the same "
                "image every time: a query has to be read as references are, so give random ones to the source, as "
                "train_augmentations"
            )

    def _is_steady(self, sample: Sample) -> bool:
        readings = []
        for seed in range(PROBES):
            with seeded(seed):
                readings.append(self(sample, masked=False)[0])
        return all(torch.equal(reading, readings[0]) for reading in readings)

    def _find(self, sample: Sample) -> tuple[AnomalibDataset, pd.DataFrame]:
        """The dataset that reads an image, and a table of this image alone."""
        serving = self._splits[0]
        for split in self._splits:
            places = (split.samples["image_path"].astype(str) == sample.image).to_numpy().nonzero()[0]
            if len(places):
                row = split.samples.iloc[places[:1]].reset_index(drop=True)
                return (split if type(split) is type(serving) else serving), row
        facts = {
            "image_path": sample.image,
            "mask_path": sample.mask if len(sample.masks) == 1 else list(sample.masks) or "",
            "label": sample.defect_type,
            "label_index": int(bool(sample.masks)),
            "split": "test",
        }
        columns = {name: [facts.get(name, "")] for name in (*serving.samples.columns, *facts)}
        return serving, pd.DataFrame({name: pd.Series(value, dtype=object) for name, value in columns.items()})


def steady_reader(datamodule: AnomalibDataModule, support: SupportSet, name: str) -> SampleReader:
    """The reader of a set-up datamodule's queries, for its references.

    ValueError when it reads an image otherwise every time. Transforms for training alone are said to be of no use here.
    """
    reader = SampleReader(datamodule, query_transform(datamodule))
    for sample in (support.normal + support.abnormal)[:1]:
        reader.check_steady(sample, name)
    if datamodule.train_augmentations not in (None, datamodule.test_augmentations):
        logger.warning(
            "train_augmentations of %s are not used: its images are references, which are read as queries are.", name
        )
    return reader


def query_transform(datamodule: AnomalibDataModule) -> Transform | None:
    """The transforms that queries of a datamodule go through before a model's own.

    A lone Resize gives way to that of the model, as in anomalib's own loaders.
    """
    transform: Transform | None = datamodule.test_augmentations
    model = getattr(datamodule.trainer, "model", None)
    resized = extract_transforms_by_type(transform_of(getattr(model, "pre_processor", None)), Resize)
    return None if isinstance(transform, Resize) and resized else transform


def by_chance(transform: Any) -> Iterator[str]:
    """Names of the transforms in a transform that are left out some of the time."""
    if isinstance(chance := getattr(transform, "p", None), int | float) and 0 < chance < 1:
        yield type(transform).__name__
    for part in getattr(transform, "transforms", None) or ():
        yield from by_chance(part)
