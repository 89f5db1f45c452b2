"""Whether defects are large enough for the network to see, and which windows would show more of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.regions import find_regions
from anomalib_nagl.io.windows import AUTO_SIDE, Size

PATCHES = 2  # sides of a patch that a defect should be large, at least


def defect_side(mask: NDArray[np.bool_], size: Size) -> float:
    """Side in pixels of a square as large as the largest region of a mask (H, W), once resized to (height, width).

    0 of an empty mask.
    """
    regions = find_regions(mask.astype(np.float32), 0.5, (mask.shape[0], mask.shape[1]))
    area = max((region.area for region in regions), default=0)
    return math.sqrt(area * (size[0] / mask.shape[0]) * (size[1] / mask.shape[1]))


def size_advice(
    masks: Iterable[NDArray[np.bool_]], sizes: Sequence[Size], input_size: Size, patch: int, windows: bool
) -> str | None:
    """A sentence where half of the defects are smaller than two patches at an input (height, width), else None.

    ``masks`` (H, W) are those of abnormal references, ``sizes`` those of their images, ``patch`` is a side in pixels;
    ``windows`` are in use already.
    """
    pairs = [(np.asarray(mask), size) for mask, size in zip(masks, sizes, strict=True) if np.asarray(mask).any()]
    if not pairs:
        return None
    seen = median(defect_side(mask, input_size) for mask, _ in pairs)
    if seen >= PATCHES * patch:
        return None
    own = median(defect_side(mask, size) for mask, size in pairs)
    height, width = (int(median(sides)) for sides in zip(*(size for _, size in pairs), strict=True))
    found = (
        f"Defects are about {seen:.0f} pixels large at an input of {input_size[0]} x {input_size[1]}, expected "
        f"{PATCHES * patch} or more, two patches: "
    )
    if windows or own < 1.2 * seen:
        return found + f"enlarge the images, to about {PATCHES * patch / own:.1f} times their size, or take closer ones"
    if max(height, width) <= AUTO_SIDE:
        return (
            found + f"train with --model.image_size {height},{width}, the size of the images, where they are {own:.0f}"
        )
    enough = "" if own >= PATCHES * patch else ", still small, which closer pictures would help"
    return found + f"train with --model.window {AUTO_SIDE}, by which they are {own:.0f} pixels large{enough}"
