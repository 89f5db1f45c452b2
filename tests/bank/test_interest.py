"""A region of interest, by the rules of the bank alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_nagl.bank.adapted import Limits, ReferencePatches, assemble
from anomalib_nagl.bank.bank_file import BankFile
from anomalib_nagl.bank.calibration import calibrate
from anomalib_nagl.bank.held_out import Detector, held_out_scores
from anomalib_nagl.bank.interest import ALL, as_drawn, check_setting, inside_patches, of_settings, to_setting, within
from anomalib_nagl.bank.maps import anomaly_map, smoothing_matrix
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.bank.views import origins
from anomalib_nagl.io.errors import EdgeError

GRID, SIZE, WIDTH = (4, 6), (32, 48), 5
CELLS = 24
VIEWS = (0, 2, 4, 6)  # all, of an input that is not square
FACTS = {
    "backbone": "none", "head": "none", "context": True, "shifted_grid": False, "proxies": False, "defects": True,
    "grid": list(GRID), "image_size": list(SIZE), "dim": WIDTH, "num_proxies": 1, "shared_mining": True,
    "bank_limit": 12, "views": "all",
}  # fmt: skip


def left_half() -> np.ndarray:
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    return mask


def test_a_region_is_drawn_at_any_size_and_kept_as_runs() -> None:
    region = as_drawn(left_half(), SIZE)
    assert region.shape == SIZE
    assert region[:, :24].all()
    assert not region[:, 24:].any()
    kept = to_setting(region)
    assert kept == {"size": [32, 48], "runs": [0] + [24] * 64}
    assert np.array_equal(of_settings({"region": json.loads(json.dumps(kept))}, FACTS), region)
    assert of_settings({"region": kept}, {**FACTS, "image_size": [64, 96]}).sum() == 4 * region.sum()
    assert to_setting(as_drawn(np.ones((3, 3)), SIZE)) is None
    assert as_drawn(None, SIZE) is ALL


def test_a_patch_counts_if_half_of_it_lies_inside_and_a_tiny_region_has_one() -> None:
    mask = np.zeros(SIZE)
    mask[:8, :12] = 1  # one patch and half of the next
    assert np.flatnonzero(inside_patches(as_drawn(mask, SIZE), GRID)).tolist() == [0, 1]
    mask[:8, 11] = 0
    assert np.flatnonzero(inside_patches(as_drawn(mask, SIZE), GRID)).tolist() == [0]
    mask[:] = 0
    mask[31, 47] = 1
    assert np.flatnonzero(inside_patches(as_drawn(mask, SIZE), GRID)).tolist() == [CELLS - 1]
    assert inside_patches(ALL, GRID).all()


@pytest.mark.parametrize(
    "spoilt",
    [
        7, {}, {"size": [2, 2], "runs": [1, 2]}, {"size": [2, 2], "runs": [4]}, {"size": [2, 2], "runs": [5, -1]},
        {"size": [2, 2, 1], "runs": [0, 4]}, {"size": [2, 2.0], "runs": [0, 4]},
        {"size": [1 << 20, 1 << 20], "runs": []},
    ],
)  # fmt: skip
def test_a_region_that_cannot_be_is_refused(spoilt: object) -> None:
    with pytest.raises(EdgeError, match=r"found a region .* expected its size and runs"):
        check_setting(spoilt)


def images(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, len(VIEWS) * CELLS, WIDTH)).astype(np.float32)


def lessons() -> list[Lesson]:
    normal, abnormal = images(1, 2), images(2, 3)
    marks = np.zeros((3, CELLS), np.float32)
    marks[0, [1, 7]] = marks[1, [4, 5]] = marks[2, [2, 3, 9]] = 1  # inside, outside, across the edge of the left half
    keys = [*("a" * 63 + str(i) for i in range(2)), *("b" * 63 + str(i) for i in range(3))]
    references = [Reference("normal", f"n{i}", sha256=keys[i]) for i in range(2)]
    references += [Reference("abnormal", f"a{i}", "x", keys[2 + i], localized=True) for i in range(3)]
    given = zip(references, [*normal, *abnormal], [*np.zeros((2, CELLS)), *marks], strict=True)
    return [Lesson.of(one, tokens, marked, GRID, {}, VIEWS) for one, tokens, marked in given]


def bank(path: Path) -> BankFile:
    return BankFile.create(path, FACTS, {}, lessons(), None)


def rows(array: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in np.ascontiguousarray(array))


def test_what_lies_outside_is_neither_normal_nor_a_defect(tmp_path: Path) -> None:
    """The bank with a region has what a detector that was only ever shown the left half has."""
    kept, region = bank(tmp_path / "a.bank"), as_drawn(left_half(), SIZE)
    whole = assemble(kept.snapshot().patches)  # sums over the same pools are at hand, of all their patches
    kept.set_region(region)
    found = kept.snapshot()
    assert [one.name for one in found.compared] == ["n0", "n1", "a0", "a2"]
    inside = inside_patches(region, GRID)[origins(GRID, VIEWS)]
    for pool, tokens in zip(found.patches.normal, images(1, 2), strict=True):
        assert rows(pool.head(len(pool))) == rows(tokens[inside])
        assert (np.diff(pool.gain) <= 0).all()
    marks = np.zeros((2, CELLS), np.float32)
    marks[0, [1, 7]] = marks[1, [2, 3, 9]] = 1
    again = ReferencePatches.of(
        list(images(1, 2)), images(2, 3)[[0, 2]], marks, np.array([True, True]), GRID, True, Limits.of(12), True,
        ["a" * 63 + "0", "a" * 63 + "1", "b" * 63 + "0", "b" * 63 + "2"], VIEWS, region,
    )  # fmt: skip
    one, other = assemble(found.patches), assemble(again)
    assert len(one["normal_bank"]) == 12 + 6
    for name in ("normal_bank", "defect_bank"):
        assert rows(one[name]) == rows(other[name])
    for name in ("normal_mean", "defect_directions", "defect_weight", "reference_kinds", "region"):
        assert np.allclose(one[name], other[name], atol=1e-6), name
    assert not np.allclose(one["normal_mean"], whole["normal_mean"])


def test_a_region_is_undone_saved_and_loaded(tmp_path: Path) -> None:
    kept, region = bank(tmp_path / "a.bank"), as_drawn(left_half(), SIZE)
    before = assemble(kept.snapshot().patches)
    kept.set_region(region)
    assert kept.history()[-1][3:5] == ("region", "50% of the picture")
    kept.save(tmp_path / "b.bank")
    assert np.array_equal(BankFile(tmp_path / "b.bank", FACTS).snapshot().patches.region, region)
    kept.undo()
    after = assemble(kept.snapshot().patches)
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    kept.load(tmp_path / "b.bank")
    assert np.array_equal(kept.snapshot().patches.region, region)
    bare = bank(tmp_path / "c.bank")
    bare.save(tmp_path / "d.bank")
    kept.load(tmp_path / "d.bank")  # what it does not have goes
    assert kept.snapshot().patches.region.size == 1


def test_a_region_without_any_normal_patch_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    shown = np.zeros(CELLS, np.float32)
    shown[5] = 1  # top right
    region = Lesson.of(Reference("region", "r"), images(1, 1)[0], shown, GRID, {}, VIEWS)
    kept = BankFile.create(tmp_path / "a.bank", FACTS, {}, [region], None)
    corner = np.zeros(SIZE)
    corner[8:16, :8] = 1
    with pytest.raises(EdgeError, match="no normal patch of a reference in the region"):
        kept.set_region(as_drawn(corner, SIZE))
    assert kept.snapshot().patches.region.size == 1


def test_thresholds_are_found_within_the_region() -> None:
    """Whatever stands outside, on references too, changes no threshold."""
    down, right = smoothing_matrix(GRID[0], SIZE[0], 1.0), smoothing_matrix(GRID[1], SIZE[1], 1.0)

    def score(tokens: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        distance = np.abs(tokens[:, :, None] - state["normal_bank"][None, None]).sum(axis=-1).min(axis=-1)
        return distance.astype(np.float32)

    detector = Detector(score, lambda scores: anomaly_map(scores, down, right))
    region = as_drawn(left_half(), SIZE)
    inside = inside_patches(region, GRID)
    found = []
    for outside in (0.0, 50.0):
        normal, abnormal = images(1, 3)[:, :CELLS], images(2, 2)[:, :CELLS]
        for image in (*normal, *abnormal):
            image[~inside] += outside * np.arange(1, 1 + WIDTH)
        marks = np.zeros((2, CELLS), np.float32)
        marks[:, [1, 7]] = 1
        patches = ReferencePatches.of(
            list(normal), abnormal, marks, np.array([True, True]), GRID, True, keys=list("abcde"), region=region
        )
        state = assemble(patches)
        scores = held_out_scores(patches, state, detector).normal
        assert (scores[:, ~inside] == scores[:, inside].min(axis=1, keepdims=True)).all()
        found.append(calibrate(patches, state, detector))
    assert np.allclose(found[0].image, found[1].image)
    assert np.allclose(found[0].pixel, found[1].pixel)
    assert found[0][2:] == found[1][2:]


def test_scores_outside_become_the_smallest_inside() -> None:
    given = np.array([[3, 1, 2, 0], [5, 6, 7, 8]], np.float32)
    inside = np.array([True, True, False, False])
    assert within(given, inside).tolist() == [[3, 1, 1, 1], [5, 6, 5, 5]]
    assert within(given, np.ones(4, bool)) is given
