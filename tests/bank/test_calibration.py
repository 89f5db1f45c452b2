"""Thresholds and scales from references, against detectors that are made anew, with a scorer that is made up here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from anomalib_nagl.bank.adapted import Limits, ReferencePatches, assemble, deviation_spread
from anomalib_nagl.bank.calibration import calibrate, doubt, misjudged, scale, threshold, typical
from anomalib_nagl.bank.discriminant import directions
from anomalib_nagl.bank.held_out import SAMPLE, Detector, held_out_scores, sample
from anomalib_nagl.bank.maps import anomaly_map, image_score, smoothing_matrix
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.patch_masks import away_from_mask
from anomalib_nagl.bank.scale import Scale

GRID, WIDTH = (5, 7), 6
CELLS = GRID[0] * GRID[1]
SEEDS = range(16)


def distance(patch: np.ndarray, bank: np.ndarray) -> float:
    return min(float(np.abs(patch - other).sum()) for other in bank)


def score(tokens: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Distance to the nearest normal patch and, where there are defects, what a state says of these."""
    found = np.array([[distance(patch, state["normal_bank"]) for patch in image] for image in tokens])
    if state["reference_kinds"][1]:
        near = np.array([[distance(patch, state["defect_bank"]) for patch in image] for image in tokens])
        beyond = ((tokens - state["normal_mean"]) @ state["defect_directions"].T)[..., 0]
        found = found + beyond + state["defect_weight"] / (1 + near)
    return (found + 0.01 * tokens.mean(axis=(1, 2))[:, None]).astype(np.float32)


DOWN, RIGHT = smoothing_matrix(GRID[0], 20, 1.0), smoothing_matrix(GRID[1], 28, 1.0)
DETECTOR = Detector(score, lambda scores: anomaly_map(scores, DOWN, RIGHT))


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

    def without(self, normal: int | None = None, abnormal: int | None = None) -> Drawn:
        n = [i for i in range(len(self.normal)) if i != normal]
        a = [i for i in range(len(self.abnormal)) if i != abnormal]
        return Drawn(self.normal[n], self.abnormal[a], self.patch_mask[a], self.localized[a], self.context)


KINDS = ((1, 0), (3, 0), (0, 2), (1, 1), (2, 3), (3, 1), (1, 3), (0, 1))


def drawn(seed: int) -> Drawn:
    generator = np.random.default_rng(seed)
    n, a = KINDS[seed % len(KINDS)]
    normal, abnormal = (generator.standard_normal((count, CELLS, WIDTH)).astype(np.float32) for count in (n, a))
    marked = np.zeros((a, CELLS), np.float32)
    marked[:, 9:12] = 1
    return Drawn(normal, abnormal, marked, np.arange(a) != 1, seed % 3 > 0)


def block_by_block(patches: Drawn, side: int) -> np.ndarray:
    """Each patch by all normal ones but those of its block."""
    state, known = assemble(patches.patches()), len(patches.normal) > 0

    def block(patch: int) -> tuple[int, int]:
        return patch // GRID[1] * side // GRID[0], patch % GRID[1] * side // GRID[1]

    images = list(patches.normal if known else patches.abnormal)
    bank = [(i, p, t[p]) for i, t in enumerate(images) for p in range(CELLS) if known or not patches.patch_mask[i, p]]
    good = np.zeros((len(images), CELLS), np.float32)
    for i, tokens in enumerate(images):
        for p in range(CELLS):
            left = [patch for j, q, patch in bank if j != i or block(q) != block(p)]
            good[i, p] = score(tokens[None], {**state, "normal_bank": np.array(left)})[0, p]
        if not known:
            good[i, patches.patch_mask[i] > 0] = good[i][patches.patch_mask[i] == 0].min()
    return good


def crosswise(patches: Drawn) -> np.ndarray:
    """A single normal image against the surroundings of defects, and these against it."""
    state, whole = assemble(patches.patches()), patches.patches()
    unit = lambda tokens: tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)  # noqa: E731
    away = [away_from_mask(mask, GRID) > 0 for mask in patches.patch_mask]
    tokens = [image[clear] for image, clear in zip(patches.abnormal, away, strict=True)]
    defects = unit(np.concatenate([i[m > 0] for i, m in zip(patches.abnormal, patches.patch_mask, strict=True)]))

    def by(bank: list[np.ndarray], image: np.ndarray) -> np.ndarray:
        moments = Moments.of(np.concatenate(bank))
        told = directions(moments, [defects.mean(axis=0, dtype=np.float64)], deviation_spread(whole))
        own = {"normal_bank": np.concatenate(bank), "normal_mean": moments.mean, "defect_directions": told}
        return score(image[None], {**state, **own})[0]

    rows = []
    for i, clear in enumerate(away):
        used = [tokens[j] for j in range(len(away)) if j != i and patches.context and patches.localized[j]]
        found = by([patches.normal[0], *used], patches.abnormal[i])
        found[~clear] = found[clear].min()
        rows.append(found)
    return np.array([*rows, by(tokens, patches.normal[0])])


def naive(patches: Drawn) -> tuple[np.ndarray, np.ndarray]:
    n, a = len(patches.normal), len(patches.abnormal)
    state = assemble(patches.patches())
    if n > 1 and a:
        good = [score(patches.normal[i][None], assemble(patches.without(i).patches()))[0] for i in range(n)]
    elif n and a:
        good = crosswise(patches)
    else:
        good = block_by_block(patches, 4 if a else 2)
    if a > 1:
        bad = [score(patches.abnormal[i][None], assemble(patches.without(None, i).patches()))[0] for i in range(a)]
    else:
        alone = {**state, "reference_kinds": np.zeros(2)}
        bad = [(score(one[None], state)[0] + score(one[None], alone)[0]) / 2 for one in patches.abnormal]
    return np.array(good).reshape(-1, CELLS), np.array(bad).reshape(-1, CELLS)


@pytest.mark.parametrize("seed", SEEDS)
def test_references_are_scored_as_if_they_were_new(seed: int) -> None:
    patches = drawn(seed)
    found = held_out_scores(patches.patches(), assemble(patches.patches()), DETECTOR)
    for ours, expected in zip(found, naive(patches), strict=False):
        assert ours.shape == expected.shape
        assert np.allclose(ours, expected, atol=1e-5, rtol=0)
    assert np.array_equal(found.marked, patches.patch_mask > 0)


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_scales_do_not_depend_on_the_order_of_references(seed: int, limit: int | None) -> None:
    given = drawn(seed)
    generator = np.random.default_rng(seed)
    n, a = generator.permutation(len(given.normal)), generator.permutation(len(given.abnormal))
    mixed = Drawn(given.normal[n], given.abnormal[a], given.patch_mask[a], given.localized[a], given.context)
    expected, found = (calibrate(one.patches(limit), assemble(one.patches(limit)), DETECTOR) for one in (given, mixed))
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert np.isfinite(one).all()
        assert one == pytest.approx(other, abs=1e-5)
    for one in found[:2]:
        assert one.raw_good < one.raw_threshold < one.raw_defective


def test_of_many_references_the_same_ones_are_scored_in_any_order() -> None:
    keys = [f"{(i * 7919) % 1009:04}" for i in range(500)]
    order = np.random.default_rng(0).permutation(500)
    assert len(sample(keys)) == SAMPLE
    assert {keys[i] for i in sample(keys)} == set(sorted(keys)[:SAMPLE])
    assert {keys[order[i]] for i in sample([keys[i] for i in order])} == set(sorted(keys)[:SAMPLE])
    assert sample(keys[:5]) == [0, 1, 2, 3, 4]


def test_thresholds_lie_between_both_kinds() -> None:
    normal, abnormal = np.array([0.1, 0.4], np.float32), np.array([0.8, 1.0], np.float32)
    middle = ((10**3 + 2.5**3) / 2) ** (-1 / 3)
    assert typical(normal) == pytest.approx(middle)
    assert threshold(normal, abnormal) == pytest.approx((middle + 0.9) / 2)
    assert threshold(normal, abnormal[:0]) == pytest.approx(0.4)


def test_good_parts_are_shown_below_and_defects_above() -> None:
    assert scale(0.5, 0.2, 0.9) == pytest.approx((0.2, 0.5, 0.9))
    assert scale(0.5, 0.2, None) == pytest.approx((0.2, 0.5, 0.8))  # no defect is known
    assert scale(0.5, 0.2, 0.4) == pytest.approx((0.2, 0.5, 0.8))  # nor does a mean beyond say anything
    assert scale(0.5, 0.7, 0.4) == pytest.approx((0.45, 0.5, 0.55))
    assert scale(0.0, 0.0, 0.0) == pytest.approx((-0.001, 0.0, 0.001))


def test_references_on_the_wrong_side_of_the_threshold_are_told() -> None:
    normal, abnormal = np.array([0.1, 0.2, 0.6, 0.2], np.float32), np.array([0.4, 0.8], np.float32)
    assert misjudged(0.5, normal, abnormal) == pytest.approx((0.25 + 0.5) / 2)
    assert misjudged(0.3, normal, abnormal) == pytest.approx(0.125)


def test_one_pixel_in_a_hundred_of_normal_maps_exceeds_the_threshold() -> None:
    patches = drawn(1).patches()
    scores = held_out_scores(patches, assemble(patches), DETECTOR).normal
    pixels = np.sort(DETECTOR.maps(scores).reshape(-1))
    found = calibrate(patches, assemble(patches), DETECTOR)
    assert found.pixel.raw_threshold == pixels[int(0.99 * len(pixels)) - 1]
    assert found.image.raw_threshold == image_score(scores).max()


def test_a_threshold_that_no_reference_reached_is_questioned() -> None:
    one, facts = Scale(0.2, 0.5, 0.8), {"raw_images_seen": [0.1, 0.7]}
    low, high = one.shown([0.1, 0.7]).tolist()
    assert doubt("images", 0.6, one, facts) is None
    assert "every one of them" in str(doubt("images", low - 0.01, one, facts))
    assert "none of them" in str(doubt("images", high + 0.01, one, facts))
    assert doubt("pixels", 0.99, one, facts) is None  # of which nothing is known
