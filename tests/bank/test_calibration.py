"""Thresholds from references, against loops over single patches, with a scorer that is made up here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from anomalib_nagl.bank.adapted import Limits, ReferencePatches, assemble
from anomalib_nagl.bank.calibration import (
    SAMPLE,
    Detector,
    calibrate,
    held_out_scores,
    sample,
    shown_width,
    threshold,
)
from anomalib_nagl.bank.maps import anomaly_map, smoothing_matrix

GRID, WIDTH = (5, 7), 6
CELLS = GRID[0] * GRID[1]
SEEDS = range(12)


def distance(patch: np.ndarray, bank: np.ndarray) -> float:
    return min(float(np.abs(patch - other).sum()) for other in bank)


def score(tokens: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Distance to the nearest normal patch, less a tenth of that to the nearest defect, plus a bit of the whole."""
    found = [
        [distance(patch, state["normal_bank"]) - 0.1 * distance(patch, state["defect_bank"]) for patch in image]
        for image in tokens
    ]
    return (np.array(found) + 0.01 * tokens.mean(axis=(1, 2))[:, None]).astype(np.float32)


DOWN, RIGHT = smoothing_matrix(GRID[0], 20, 1.0), smoothing_matrix(GRID[1], 28, 1.0)
DETECTOR = Detector(score, lambda scores: anomaly_map(scores, DOWN, RIGHT), True)


class Drawn(NamedTuple):
    normal: np.ndarray
    abnormal: np.ndarray
    patch_mask: np.ndarray
    localized: np.ndarray
    context: bool

    def patches(self, limit: int | None = None) -> ReferencePatches:
        return ReferencePatches.of(
            list(self.normal), self.abnormal, self.patch_mask, self.localized, GRID, self.context, Limits.of(limit)
        )


def drawn(seed: int) -> Drawn:
    generator = np.random.default_rng(seed)
    n, a = ((1, 0), (3, 0), (0, 2), (1, 1), (2, 3))[seed % 5]
    normal, abnormal = (generator.standard_normal((count, CELLS, WIDTH)).astype(np.float32) for count in (n, a))
    marked = np.zeros((a, CELLS), np.float32)
    marked[:, 9:12] = 1
    return Drawn(normal, abnormal, marked, np.arange(a) != 1, seed % 3 > 0)


def naive(patches: Drawn) -> tuple[np.ndarray, np.ndarray]:
    side = 4 if len(patches.abnormal) else 2
    state, known = assemble(patches.patches()), len(patches.normal) > 0

    def block(patch: int) -> tuple[int, int]:
        return patch // GRID[1] * side // GRID[0], patch % GRID[1] * side // GRID[1]

    bank = [(i, p, tokens[p]) for i, tokens in enumerate(patches.normal) for p in range(CELLS)]
    bank += [(-1, 0, patch) for patch in state["normal_bank"][len(bank) :] if known]
    images = list(patches.normal)
    if not known:
        images = list(patches.abnormal)
        bank = [(i, p, t[p]) for i, t in enumerate(images) for p in range(CELLS) if not patches.patch_mask[i, p]]
    good = np.zeros((len(images), CELLS), np.float32)
    for i, tokens in enumerate(images):
        for p in range(CELLS):
            left = [patch for j, q, patch in bank if j != i or block(q) != block(p)]
            good[i, p] = score(tokens[None], {**state, "normal_bank": np.array(left)})[0, p]
        if not known:
            good[i, patches.patch_mask[i] > 0] = good[i].min()
    bad = score(patches.abnormal, state) if len(patches.abnormal) else np.zeros((0, CELLS), np.float32)
    use = [(i, p) for i in range(len(bad)) if patches.localized[i] for p in range(CELLS) if patches.patch_mask[i, p]]
    for i in range(len(bad)):
        own = [p for j, p in use if j == i]
        for half in (own[::2], own[1::2]):
            left = np.array([patches.abnormal[j, q] for j, q in use if j != i or q not in half])
            if len(half) and len(left):
                bad[i, half] = score(patches.abnormal[i][None], {**state, "defect_bank": left})[0, half]
    return good, bad


@pytest.mark.parametrize("seed", SEEDS)
def test_references_are_scored_by_everything_else(seed: int) -> None:
    patches = drawn(seed)
    found = held_out_scores(patches.patches(), assemble(patches.patches()), DETECTOR)
    for ours, expected in zip(found, naive(patches), strict=True):
        assert ours.shape == expected.shape
        assert np.allclose(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("seed", range(5))
def test_thresholds_do_not_depend_on_the_order_of_references(seed: int, limit: int | None) -> None:
    given = drawn(seed)
    generator = np.random.default_rng(seed)
    n, a = generator.permutation(len(given.normal)), generator.permutation(len(given.abnormal))
    mixed = Drawn(given.normal[n], given.abnormal[a], given.patch_mask[a], given.localized[a], given.context)
    expected, found = (calibrate(one.patches(limit), assemble(one.patches(limit)), DETECTOR) for one in (given, mixed))
    assert found == pytest.approx(expected, abs=1e-6)


def test_of_many_references_the_same_ones_are_scored_in_any_order() -> None:
    keys = [f"{(i * 7919) % 1009:04}" for i in range(500)]
    order = np.random.default_rng(0).permutation(500)
    assert len(sample(keys)) == SAMPLE
    assert {keys[i] for i in sample(keys)} == set(sorted(keys)[:SAMPLE])
    assert {keys[order[i]] for i in sample([keys[i] for i in order])} == set(sorted(keys)[:SAMPLE])
    assert sample(keys[:5]) == [0, 1, 2, 3, 4]


def test_thresholds_lie_between_both_kinds() -> None:
    normal, abnormal = np.array([0.1, 0.3], np.float32), np.array([0.8, 1.0], np.float32)
    assert threshold(normal, abnormal) == pytest.approx(0.55)
    assert threshold(normal, abnormal[:0]) == pytest.approx(0.3)
    assert shown_width(0.5, normal, abnormal) == pytest.approx(1.0)
    assert shown_width(0.5, normal[1:], abnormal[:0]) == pytest.approx(0.5)  # reaches down to 0


def test_one_pixel_in_a_hundred_of_normal_maps_exceeds_the_threshold() -> None:
    patches = drawn(1).patches()
    scores = held_out_scores(patches, assemble(patches), DETECTOR).normal
    pixels = np.sort(DETECTOR.maps(scores).reshape(-1))
    found = calibrate(patches, assemble(patches), DETECTOR)
    assert found.pixel == pixels[int(0.99 * len(pixels)) - 1]
    assert found.image_width == max(found.image, 1 - found.image)
