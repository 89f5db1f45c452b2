"""The region of interest: where a detector looks, at the same place of every image.

It is drawn on a picture and stretched to the network input. A patch counts if half of it at least lies in it; pixels of
a map count as they were drawn. ``core.interest`` is its twin in torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.patch_masks import region_patches, resize_mask
from anomalib_nagl.bank.views import origins, views_of
from anomalib_nagl.io.errors import EdgeError

Floats = NDArray[np.float32]
Booleans = NDArray[np.bool_]
REGION = "region"  # the setting of a bank
ALL: Floats = np.ones((1, 1), np.float32)  # everywhere
MOST = 1 << 28  # pixels of a region in a bank
_REMEDY = "set the region anew, or restore the bank from a copy"


def everywhere(region: NDArray[Any] | None) -> bool:
    """Whether a region is none, or leaves nothing out."""
    return region is None or bool((np.asarray(region) != 0).all())


def as_drawn(mask: NDArray[Any] | None, size: tuple[int, int]) -> Floats:
    """A mask (h, w) of any size, non-zero where to look, at the size (H, W) of the network input; ``ALL`` for none."""
    if mask is None or everywhere(mask):
        return ALL
    resized = resize_mask(mask, size)
    return ALL if resized.all() else resized.astype(np.float32)


def inside_patches(region: Floats, grid: tuple[int, int]) -> Booleans:
    """Which patches (M,) a region (H, W) of the network input shows; all of ``ALL``."""
    if everywhere(region):
        return np.ones(grid[0] * grid[1], bool)
    return region_patches(region, grid) > 0


def inside_views(region: Floats, grid: tuple[int, int], views: tuple[int, ...]) -> Booleans | None:
    """The same for the patches (V * M,) of all views of an image; None where all are."""
    return None if everywhere(region) else inside_patches(region, grid)[origins(grid, views)]


def keep_views(region: Floats, facts: Mapping[str, Any]) -> Booleans | None:
    """The same by the facts of a model."""
    return inside_views(region, (int(facts["grid"][0]), int(facts["grid"][1])), views_of(facts))


def inside_pixels(region: Floats, size: tuple[int, int]) -> Booleans:
    """Which pixels (H, W) of a map lie in a region of any size: nearest neighbour, as in ``resize_mask``."""
    rows, cols = (np.arange(target) * source // target for source, target in zip(region.shape, size, strict=True))
    found: Booleans = region[rows[:, None], cols] > 0
    return found


def within(score: Floats, inside: Booleans) -> Floats:
    """Patch scores (B, M) with the smallest one of those ``inside`` (M,) in place of the others."""
    if inside.all():
        return score
    return np.where(inside, score, score[:, inside].min(axis=1, keepdims=True)).astype(np.float32)


def to_setting(region: Floats) -> dict[str, Any] | None:
    """A region as JSON: its size, and lengths of runs in reading order, the first of them outside; None for ``ALL``."""
    if everywhere(region):
        return None
    flat = np.concatenate([[False], region.reshape(-1) > 0])
    ends = [0, *(np.flatnonzero(np.diff(flat)).tolist()), region.size]
    return {
        "size": [int(side) for side in region.shape],
        "runs": [int(after - before) for before, after in pairwise(ends)],
    }


def of_settings(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Floats:
    """The region of a bank, at the size (H, W) of the network input of its model; ``ALL`` without one."""
    found, (height, width) = settings.get(REGION), facts["image_size"]
    return ALL if found is None else as_drawn(_decoded(found), (int(height), int(width)))


def check_setting(found: object) -> None:
    """Raise EdgeError unless this is a region as ``to_setting`` writes it, with something in it."""
    if not isinstance(found, dict) or not _is_filled(found.get("size"), found.get("runs")):
        raise EdgeError(
            f"found a region {str(found)[:60]} in a reference bank, expected its size and runs of pixels that fill it, "
            f"some of them inside: {_REMEDY}"
        )


def _is_filled(size: Any, runs: Any) -> bool:
    """Whether runs of pixels fill a size (height, width), some of them inside."""
    if not (isinstance(size, list) and isinstance(runs, list) and all(map(_is_count, [*size, *runs]))):
        return False
    return len(size) == 2 and 0 < math.prod(size) <= MOST and sum(runs) == math.prod(size) and sum(runs[1::2]) > 0


def _decoded(found: Mapping[str, Any]) -> Booleans:
    check_setting(found)
    lengths = np.array(found["runs"], np.int64)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(found["size"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
