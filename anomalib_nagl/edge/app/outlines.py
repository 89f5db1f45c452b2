"""From an anomaly map to what a page draws: outlines of its regions, and the region that is meant by a click."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.regions import label_regions
from anomalib_nagl.io.tint import resize_map

MOST = 50  # regions that are drawn, the highest first
NEAR = 0.06  # share of the longer side within which a click finds a peak
LARGEST = 0.25  # share of an image that a suggestion may cover
Polygon = list[list[float]]


class Outlined(NamedTuple):
    """A region in pixels of the image: its outlines, box (left, top, width, height), and its peak's place and value."""

    outline: list[Polygon]
    box: list[int]
    peak: list[int]
    score: float


def outlined(values: NDArray[np.float32], threshold: float, size: tuple[int, int]) -> list[Outlined]:
    """Regions of a map (h, w) above a threshold, in pixels of an image of ``size`` (width, height)."""
    mask = values > threshold
    label, number = label_regions(mask)
    whole = np.full(mask.shape, -1)
    whole[mask] = label
    peaks = np.full(number, -np.inf)
    np.maximum.at(peaks, label, values[mask])
    wide, tall = size[0] / mask.shape[1], size[1] / mask.shape[0]
    found = []
    for index in np.argsort(-peaks, kind="stable")[:MOST].tolist():
        rows, columns = np.nonzero(whole == index)
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        part = whole[top:bottom, left:right] == index
        highest = int(values[rows, columns].argmax())
        lines = [[[round((x + left) * wide, 1), round((y + top) * tall, 1)] for x, y in line] for line in trace(part)]
        box = [int(left * wide), int(top * tall), round((right - left) * wide), round((bottom - top) * tall)]
        peak = [int((columns[highest] + 0.5) * wide), int((rows[highest] + 0.5) * tall)]
        found.append(Outlined(lines, box, peak, float(peaks[index])))
    return found


def trace(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed lines (x, y) along the edges of the true pixels of a mask (h, w), corners alone; they lie to the right."""
    inside = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for step, begin, end in (
        ((-1, 0), (0, 0), (1, 0)), ((0, 1), (1, 0), (1, 1)), ((1, 0), (1, 1), (0, 1)), ((0, -1), (0, 1), (0, 0)),
    ):  # fmt: skip
        outside = np.roll(inside, (-step[0], -step[1]), (0, 1))
        for y, x in zip(*np.nonzero(inside & ~outside), strict=True):
            place = int(x) - 1, int(y) - 1
            following.setdefault((place[0] + begin[0], place[1] + begin[1]), []).append(
                (place[0] + end[0], place[1] + end[1])
            )
    lines = []
    while following:
        start = here = next(iter(following))
        line = [start]
        while True:
            ways = following[here]
            here = ways.pop()
            if not ways:
                del following[line[-1]]
            if here == start:
                break
            line.append(here)
        lines.append(_corners(line))
    return lines


def _corners(line: list[tuple[int, int]]) -> list[tuple[int, int]]:
    places = np.array(line)
    before, after = places - np.roll(places, 1, 0), np.roll(places, -1, 0) - places
    turns = (before != after).any(axis=1)
    return [place for place, turn in zip(line, turns.tolist(), strict=True) if turn]


def suggest(
    values: NDArray[np.float32], picture: tuple[int, int], click: tuple[float, float] | None
) -> NDArray[np.bool_]:
    """A mask of a ``picture`` (width, height): the region of the map (h, w) that deviates most at a click.

    ``click`` is (x, y) as shares of the picture; without one the highest peak is meant. The region reaches down to
    half-way between its peak and the median of the map, or less far where that would be too much of the picture.
    """
    height, width = values.shape
    if click is None:
        row, column = np.unravel_index(int(values.argmax()), values.shape)
    else:
        reach = max(int(NEAR * max(height, width)), 1)
        at = min(int(click[1] * height), height - 1), min(int(click[0] * width), width - 1)
        top, left = max(at[0] - reach, 0), max(at[1] - reach, 0)
        near = values[top : at[0] + reach + 1, left : at[1] + reach + 1]
        down, right = np.unravel_index(int(near.argmax()), near.shape)
        row, column = top + down, left + right
    peak, middle = float(values[row, column]), float(np.median(values))
    for share in (0.5, 0.65, 0.8, 0.9, 0.97):
        found = _piece(values >= middle + share * (peak - middle), (int(row), int(column)))
        if found.mean() <= LARGEST:
            break
    smooth = resize_map(values, picture) >= middle + share * (peak - middle)
    mask = smooth & (resize_map(_grown(found), picture) > 0.5)
    return mask if mask.any() else resize_map(found, picture) > 0


def _piece(mask: NDArray[np.bool_], at: tuple[int, int]) -> NDArray[np.bool_]:
    """The region of a mask that holds a pixel."""
    mask[at] = True
    label, _ = label_regions(mask)
    whole = np.full(mask.shape, -1)
    whole[mask] = label
    found: NDArray[np.bool_] = whole == whole[at]
    return found


def _grown(mask: NDArray[np.bool_]) -> NDArray[Any]:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_or.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
