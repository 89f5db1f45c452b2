"""Regions of an anomaly map: where it is above the threshold, in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.prediction_table import Region


def find_regions(values: NDArray[np.float32], threshold: float, size: tuple[int, int]) -> tuple[Region, ...]:
    """Regions of a map (h, w) above a threshold, the one with the highest peak first.

    Pixels that touch, diagonally too, are one region. Boxes and areas are in pixels of the image, of ``size``
    (height, width), whatever the size of the map.
    """
    mask = np.asarray(values) > threshold
    label, number = label_regions(mask)
    if not number:
        return ()
    down, right = np.nonzero(mask)
    edges = [_least(label, axis, number) for axis in (right, down)] + [
        -_least(label, -axis, number) for axis in (right, down)
    ]
    area = np.bincount(label, minlength=number)
    peak = np.full(number, -np.inf)
    np.maximum.at(peak, label, np.asarray(values)[mask])
    tall, wide = size[0] / mask.shape[0], size[1] / mask.shape[1]
    found = [
        Region(
            (int(left * wide), int(top * tall), _ceil((last + 1) * wide, size[1]), _ceil((bottom + 1) * tall, size[0])),
            max(round(float(area[i]) * tall * wide), 1),
            float(peak[i]),
        )
        for i, (left, top, last, bottom) in enumerate(zip(*edges, strict=True))
    ]
    return tuple(sorted(found, key=lambda region: -region.peak))


def _least(label: NDArray[Any], values: NDArray[Any], number: int) -> NDArray[Any]:
    found = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(found, label, values)
    return found


def _ceil(value: float, most: int) -> int:
    return min(int(np.ceil(value - 1e-9)), most)


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """The region (P,), from 0, of every true pixel of a mask (H, W) in reading order, and how many there are.

    Runs of true pixels of a row are joined with those of the row above that touch them (union and find).
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    step = np.diff(padded, axis=1)
    (row, start), end = np.nonzero(step == 1), np.nonzero(step == -1)[1]
    parent = list(range(len(row)))
    above = 0
    for run in range(len(row)):
        while row[above] < row[run] - 1 or (row[above] == row[run] - 1 and end[above] < start[run]):
            above += 1
        other = above
        while other < run and row[other] == row[run] - 1 and start[other] <= end[run]:
            _join(parent, other, run)
            other += 1
    roots = np.array([_root(parent, run) for run in range(len(row))], np.int64)
    names, label = np.unique(roots, return_inverse=True)
    return np.repeat(label.reshape(-1), end - start), len(names)


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


def _join(parent: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first
