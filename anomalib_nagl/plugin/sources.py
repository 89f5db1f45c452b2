"""Source categories: their images, and which of them are kept for validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset

from anomalib_nagl.plugin.datasets import describe, samples, shared_images
from anomalib_nagl.plugin.episodes import Pool, read_sample
from anomalib_nagl.plugin.sample_reader import SampleReader
from anomalib_nagl.references.images import check_mask, load_mask, read_header
from anomalib_nagl.references.sample import Sample

logger = logging.getLogger(__name__)
HELD_OUT_SHARE = 5  # one category in so many is kept for validation


def category_pool(source: AnomalibDataModule, published: bool) -> Pool:
    """Images of a source category; by the published rule normal references come from its test split (Q15)."""
    source.setup()
    splits, validated = [source.test_data], _split(source, "val")
    if not published and validated is not None and not isinstance(validated, SyntheticAnomalyDataset):
        splits.append(validated)
    tested, abnormal = (
        tuple(dict.fromkeys(sample for split in splits for sample in samples(split, label)))
        for label in (LabelName.NORMAL, LabelName.ABNORMAL)
    )
    trained = tested if published else tuple(samples(source.train_data, LabelName.NORMAL))
    readers = (SampleReader(source, source.train_augmentations), SampleReader(source, source.test_augmentations))
    varied, steady = (None if reader.plain else reader for reader in readers)
    return Pool(describe(source), trained, tested, abnormal, varied, steady)


def as_steady(pool: Pool) -> Pool:
    """The same images without augmentations that are for training alone."""
    return replace(pool, reader=pool.steady_reader)


def check_masks(pools: Sequence[Pool]) -> None:
    """Raise ValueError that lists every mask of a defect that cannot be learned from, before anything is."""
    found = []
    for pool in pools:
        for sample in pool.abnormal:
            try:
                read_sample(as_steady(pool), sample, abnormal=True) if pool.steady_reader else _check_file(sample)
            except ValueError as error:
                found.append(f"{sample.mask or sample.image}: {error}")
    if found:
        raise ValueError(
            f"found {len(found)} defects of the source that cannot be learned from, expected a mask for each, of its "
            f"image's size and with at least one marked pixel: mend them, or remove the images. {'; '.join(found)}"
        )


def _check_file(sample: Sample) -> None:
    """The same without decoding the image."""
    width, height = read_header(sample.image).upright
    check_mask(load_mask(sample.masks, sample.image), (height, width), sample.image)


def _split(datamodule: AnomalibDataModule, name: str) -> AnomalibDataset | None:
    # anomalib's datamodules have no attribute for a split that they do not have.
    split: AnomalibDataset | None = getattr(datamodule, f"{name}_data", None)
    return split


def without_target(pools: Sequence[Pool], target: AnomalibDataModule, skip: bool) -> list[Pool]:
    """Pools that share no image with the target, nor a copy; the others are left out if ``skip``, else ValueError."""
    splits = [_split(target, name) for name in ("train", "val", "test")]
    own = [str(path) for split in splits if split is not None for path in split.samples.image_path]
    found = shared_images((sample.image for pool in pools for sample in pool.samples), own)
    shared = [pool for pool in pools if _holds(pool, found)]
    if shared and not skip:
        images = sorted(sample.image for sample in shared[0].samples if sample.image in found)
        more = f" and {len(images) - 1} more" if len(images) > 1 else ""
        raise ValueError(
            f"found images of the target {describe(target)} among the sources ({shared[0].name}: {images[0]}{more}), "
            "expected others: a head must not be trained on what it is tested on, nor on copies of it"
        )
    left = [pool for pool in pools if pool not in shared]
    if not left:
        raise ValueError("found no source category besides the target, expected at least one: name another source")
    if shared:
        logger.info("Not trained on %s: images of the target.", ", ".join(pool.name for pool in shared))
    return left


def apart(pools: Sequence[Pool], others: Sequence[Pool]) -> list[Pool]:
    """Pools that share no image with the others, nor a copy."""
    found = shared_images(
        (sample.image for pool in pools for sample in pool.samples),
        (sample.image for other in others for sample in other.samples),
    )
    return [pool for pool in pools if not _holds(pool, found)]


def _holds(pool: Pool, images: set[str]) -> bool:
    return any(sample.image in images for sample in pool.samples)


def split_categories(
    pools: Sequence[Pool], held_out: Sequence[str] | str | None, seed: int
) -> tuple[list[Pool], list[Pool]]:
    """Divide source categories into those to train on and those to validate on.

    ``held_out`` names the latter, with or without the name of their data set; "auto" takes one in five by ``seed``,
    None takes none. Raises ValueError for names that do not exist, or when nothing is left to train on.
    """
    names = [held_out] if isinstance(held_out, str) else list(held_out or [])
    if names == ["auto"]:
        order = np.random.default_rng([seed, 2]).permutation(len(pools))
        names = [pools[i].name for i in sorted(order[: len(pools) // HELD_OUT_SHARE])]
    unknown = [name for name in names if not any(_is_called(pool, name) for pool in pools)]
    validation = [pool for pool in pools if any(_is_called(pool, name) for name in names)]
    training = [pool for pool in pools if pool not in validation]
    if unknown or not training:
        raise ValueError(
            f"found validation_categories={names} for the source categories {', '.join(p.name for p in pools)}; "
            "expected some of these, not all: 'auto' takes one in five"
        )
    return training, validation


def _is_called(pool: Pool, name: str) -> bool:
    return name in (pool.name, pool.name.split(" ", 1)[-1])
