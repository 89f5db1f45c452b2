"""Rules that are decided from references, against plain loops, and against their twins in training episodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from anomalib_nagl.bank.adapted import Limits, ReferencePatches, assemble, normal_bank
from anomalib_nagl.bank.mining import mined
from anomalib_nagl.bank.patch_masks import away_from_mask, guess_patch_mask, patch_mask, resize_mask
from anomalib_nagl.core import functional

SEEDS = range(20)


def random_mask(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for _ in range(int(generator.integers(1, 4))):
        top, left = generator.integers(height), generator.integers(width)
        mask[top : top + generator.integers(1, 6), left : left + generator.integers(1, 6)] = True
    return mask


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_patch_mask_equals_that_of_episodes(seed: int, shifted: bool) -> None:
    generator = np.random.default_rng(seed)
    grid, patch = tuple(generator.integers(1, 7, 2)), tuple(generator.integers(2, 6, 2))
    mask = random_mask(generator, grid[0] * patch[0], grid[1] * patch[1])
    expected = functional.mask_to_grid(torch.from_numpy(mask)[None, None].float(), grid, shifted)[0, 0]
    assert patch_mask(mask, grid, shifted).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_away_from_mask_equals_that_of_episodes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    grid = tuple(generator.integers(1, 9, 2))
    marked = (generator.random(grid[0] * grid[1]) < 0.1).astype(np.float32)
    expected = functional.away_from_mask(torch.from_numpy(marked), grid)
    assert away_from_mask(marked, grid).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mask_is_resized_as_pixel_by_pixel_and_never_lost(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(5, 90, 2)
    size = tuple(generator.integers(3, 20, 2))
    mask = np.zeros((height, width), np.uint8)
    mask[generator.integers(height), generator.integers(width)] = generator.integers(1, 255)  # thin: one pixel
    found = resize_mask(mask, size)
    nearest = np.array(
        [[mask[r * height // size[0], c * width // size[1]] for c in range(size[1])] for r in range(size[0])]
    )
    if nearest.any():
        assert np.array_equal(found, nearest != 0)
    else:
        row, col = (int(place[0]) for place in mask.nonzero())
        for r in range(size[0]):
            for c in range(size[1]):
                down = r * height < (row + 1) * size[0] and (r + 1) * height > row * size[0]
                right = c * width < (col + 1) * size[1] and (c + 1) * width > col * size[1]
                assert found[r, c] == (down and right)
    assert found.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_guessed_patches_are_half_way_from_the_median_to_the_largest_deviation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens, normal = (generator.standard_normal((count, 6)).astype(np.float32) for count in (15, 40))

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    deviation = [1 - max(cosine(token, other) for other in normal) for token in tokens]
    half = (max(deviation) + float(np.median(deviation))) / 2
    assert guess_patch_mask(tokens, normal).tolist() == [float(value >= half - 1e-6) for value in deviation]
    assert guess_patch_mask(np.ones((4, 3), np.float32), np.ones((2, 3), np.float32)).sum() == 4  # nothing stands out


class Drawn(NamedTuple):
    normal: tuple[np.ndarray, ...]
    abnormal: np.ndarray
    patch_mask: np.ndarray
    localized: np.ndarray
    grid: tuple[int, int]
    context: bool

    def patches(self, limit: int | None = None) -> ReferencePatches:
        return ReferencePatches.of(*self, Limits.of(limit))


def drawn(generator: np.random.Generator, normal: int, abnormal: int, context: bool = True) -> Drawn:
    grid, width = (3, 4), 5
    marked = np.zeros((abnormal, 12), np.float32)
    marked[:, :2] = 1
    localized = np.arange(abnormal) % 2 == 0
    tokens = [generator.standard_normal((12, width)).astype(np.float32) for _ in range(normal + abnormal)]
    known = np.array(tokens[normal:], np.float32).reshape(-1, 12, width)
    return Drawn(tuple(tokens[:normal]), known, marked, localized, grid, context)


def test_the_bank_is_normal_references_and_what_surrounds_localized_defects() -> None:
    given = drawn(np.random.default_rng(0), 2, 3)
    state = assemble(given.patches())
    away = [i for i in range(12) if i % 4 > 2 or i // 4 > 1]  # the mask covers the first two patches of the first row
    expected = [*given.normal, given.abnormal[0][away], given.abnormal[2][away]]
    assert np.array_equal(state["normal_bank"], np.concatenate(expected))
    assert np.array_equal(state["defect_bank"], given.abnormal[[0, 2], :2].reshape(-1, 5))
    assert state["reference_kinds"].tolist() == [1, 1]
    assert len(assemble(given._replace(context=False).patches())["normal_bank"]) == 24


def test_without_normal_references_the_rest_of_abnormal_ones_is_normal() -> None:
    given = drawn(np.random.default_rng(0), 0, 2)
    assert np.array_equal(normal_bank(given.patches()), given.abnormal[:, 2:].reshape(-1, 5))
    assert assemble(given.patches())["reference_kinds"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="without a single normal patch"):
        normal_bank(given._replace(patch_mask=np.ones((2, 12), np.float32)).patches())


def test_without_known_defects_there_is_one_zero_patch() -> None:
    given = drawn(np.random.default_rng(0), 1, 0)
    assert assemble(given.patches())["defect_bank"].tolist() == [[0.0] * 5]
    with pytest.raises(ValueError, match="no references at all"):
        normal_bank(drawn(np.random.default_rng(0), 0, 0).patches())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_kept_depends_on_the_images_alone(seed: int) -> None:
    """In any order, and as if those that were forgotten had never been there; at most as much as the limit."""
    generator = np.random.default_rng(seed)
    given = drawn(generator, 5, 4)
    kept = assemble(given.patches(20))
    assert len(kept["normal_bank"]) == 20 + 10
    assert len(kept["defect_bank"]) == 4
    order = generator.permutation(5)
    known = generator.permutation(4)
    turned = Drawn(
        tuple(given.normal[i] for i in order), given.abnormal[known], given.patch_mask[known], given.localized[known],
        given.grid, True,
    )  # fmt: skip
    for name, array in assemble(turned.patches(20)).items():
        assert sorted(map(tuple, np.atleast_2d(array))) == sorted(map(tuple, np.atleast_2d(kept[name]))), name


def test_mining_reads_marked_patches_in_their_places() -> None:
    few, many = (drawn(np.random.default_rng(0), 1, count) for count in (4, 9))
    found = mined(few.patches())
    assert np.array_equal(found.patch_mask, few.patch_mask)
    assert np.array_equal(found.tokens, few.abnormal * few.patch_mask[..., None])
    found = mined(many.patches())
    assert found.tokens.shape == (2, 12, 5)  # all nine mark the same two places: two of them find room
    assert found.patch_mask.sum() == 4
    chosen = {tuple(row) for row in found.tokens[found.patch_mask > 0]}
    assert chosen <= {tuple(row) for row in many.abnormal[many.patch_mask > 0]}
    order = np.random.default_rng(1).permutation(9)
    turned = many._replace(abnormal=many.abnormal[order])
    assert np.array_equal(mined(turned.patches()).tokens, found.tokens)
    alone = mined(ReferencePatches.of(*many, Limits.of(None), shared=False))
    assert alone.tokens.shape == (9, 12, 5)
