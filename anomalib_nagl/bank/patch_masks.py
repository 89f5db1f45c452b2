"""Which patches of a reference image are abnormal: from its mask, or guessed from how they deviate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
COMPARED = 2**26  # pairs of patches that are compared at once


def resize_mask(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a mask (H, W), non-zero where abnormal, to the size (height, width) of the network input.

    Nearest neighbour with source index t * H // height. If that loses a thin defect, every pixel is abnormal that a
    part of it falls on.
    """
    abnormal = np.asarray(mask) != 0
    rows, cols = (np.arange(target) * source // target for source, target in zip(abnormal.shape, size, strict=True))
    nearest: NDArray[np.bool_] = abnormal[rows[:, None], cols]
    if nearest.any():
        return nearest
    down, right = (_overlap(source, target) for source, target in zip(abnormal.shape, size, strict=True))
    touched: NDArray[np.bool_] = down @ abnormal.astype(np.float32) @ right.T > 0
    return touched


def _overlap(source: int, target: int) -> Floats:
    """0/1 (target, source): which source pixels a target pixel covers any part of, along one axis."""
    place, first = np.arange(source), np.arange(target)[:, None]
    inside = (place * target < (first + 1) * source) & ((place + 1) * target > first * source)
    return inside.astype(np.float32)


def patch_mask(mask: NDArray[Any], grid: tuple[int, int], shifted: bool = False) -> Floats:
    """Mark the patches that hold an abnormal pixel: a mask (H, W) of the network input -> 0/1 (M,) (section 3).

    ``shifted`` moves the windows one pixel up and left, as the published code does (Q5). The sides of the mask are
    multiples of the grid.
    """
    abnormal = np.asarray(mask) != 0
    rows, cols = grid
    height, width = abnormal.shape[0] // rows, abnormal.shape[1] // cols
    if shifted:
        abnormal = np.pad(abnormal, ((1, 0), (1, 0)))[:-1, :-1]
    return abnormal.reshape(rows, height, cols, width).any(axis=(1, 3)).reshape(-1).astype(np.float32)


def region_patches(mask: NDArray[Any], grid: tuple[int, int]) -> Floats:
    """Patches that a region shows, 0/1 (M,): half of one at least lies in the mask (H, W) of the network input.

    Where no patch has so much, those that have most.
    """
    rows, cols = grid
    inside = np.asarray(mask) != 0
    cells = inside.reshape(rows, inside.shape[0] // rows, cols, inside.shape[1] // cols)
    share = cells.mean(axis=(1, 3)).reshape(-1)
    return (share >= min(0.5, float(share.max()))).astype(np.float32)


def away_from_mask(marked: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches are neither abnormal nor next to an abnormal one, diagonally included: (M,) -> (M,)."""
    rows, cols = grid
    padded = np.pad(np.asarray(marked).reshape(rows, cols) > 0, 1)
    near = [padded[i : i + rows, j : j + cols] for i in range(3) for j in range(3)]
    away: NDArray[np.bool_] = ~np.logical_or.reduce(near).reshape(-1)
    return away


def guess_patch_mask(tokens: Floats, normal: Floats, inside: NDArray[np.bool_] | None = None) -> Floats:
    """Guess the abnormal patches, 0/1 (M,), of an image (M, C) without a mask from normal patches (K, C).

    A patch deviates by 1 - its largest cosine similarity to a normal one. Abnormal are those at least half-way from
    the median to the largest deviation, hence always one. Only patches ``inside`` (M,) of what is looked at count,
    where that is given.
    """
    seen = np.ones(len(tokens), bool) if inside is None else inside
    found = np.zeros(len(tokens), np.float32)
    unit, bank = l2_normalize(tokens[seen]), l2_normalize(normal).T
    blocks = np.array_split(unit, max(len(unit) * len(normal) // COMPARED, 1))  # a large image has tens of thousands
    deviation = 1 - np.concatenate([(block @ bank).max(axis=1) for block in blocks])
    found[seen] = deviation >= (deviation.max() + np.median(deviation)) / 2
    return found


def l2_normalize(tokens: Floats) -> Floats:
    """Scale tokens (..., C) to Euclidean length 1; a zero token stays zero."""
    length: Floats = np.linalg.norm(tokens, axis=-1, keepdims=True)
    return tokens / np.maximum(length, np.float32(1e-12))
