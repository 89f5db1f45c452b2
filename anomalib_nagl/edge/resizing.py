"""Resizing to the network input outside the graph, which then sees one size whatever images come."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # results computed by one product: they depend on a narrow band of the image only


class Band(NamedTuple):
    """Results ``first`` to ``last`` along an axis: ``weights`` (results, sources) of sources from ``begin`` on."""

    first: int
    last: int
    begin: int
    weights: NDArray[np.float32]


def resize(image: NDArray[np.float32], size: tuple[int, int], rounded: bool) -> NDArray[np.float32]:
    """An image (3, H, W) at a size (h, w), by PIL's bicubic filter as in torch (``core.resizing``).

    ``rounded`` rounds to 8 bits after each pass, as PIL does.
    """
    if image.shape[1:] == size:
        return _round(image) if rounded else image
    wide = np.empty((*image.shape[:2], size[1]), np.float32)
    for band in bands(image.shape[2], size[1]):
        sources = image[:, :, band.begin : band.begin + band.weights.shape[1]]
        wide[:, :, band.first : band.last] = sources @ band.weights.T
    wide = _round(wide) if rounded else wide
    resized = np.empty((len(image), *size), np.float32)
    for band in bands(image.shape[1], size[0]):
        resized[:, band.first : band.last] = band.weights @ wide[:, band.begin : band.begin + band.weights.shape[1]]
    return _round(resized) if rounded else resized


@lru_cache(maxsize=16)
def bands(source: int, target: int) -> tuple[Band, ...]:
    """The weights along one axis, block by block; columns that are zero for a whole block are left out."""
    reach = 2 * max(source, target)  # of half the filter, in units of 1 / (2 * target) source pixels
    rows = np.arange(target)[:, None]
    start = ((2 * rows + 1) * source - 2 * reach - target) // (2 * target)
    columns = start + np.arange(2 * reach // target + 3)
    # As in torch: integers until the last division, then 32-bit floats.
    distance = np.abs((2 * columns + 1) * target - (2 * rows + 1) * source).astype(np.float32)
    distance = (distance / np.float32(reach)).clip(max=2)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where((columns >= 0) & (columns < source), np.where(distance < 1, near, far), 0).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    return tuple(_band(first, columns[first : first + BLOCK], weights, source) for first in range(0, target, BLOCK))


def _band(first: int, columns: NDArray[np.int64], weights: NDArray[np.float32], source: int) -> Band:
    """The weights of some results as one product takes them; some of the columns may lie outside the image."""
    count, begin = len(columns), int(columns[0, 0])
    dense = np.zeros((count, int(columns[-1, -1]) + 1 - begin), np.float32)
    dense[np.arange(count)[:, None], columns - begin] = weights[first : first + count]
    left_out = max(-begin, 0)
    return Band(first, first + count, begin + left_out, dense[:, left_out : source - begin])


def _round(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(image * np.float32(255)).clip(0, 255) / np.float32(255)
