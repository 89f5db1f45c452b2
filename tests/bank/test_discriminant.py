"""The discriminant of known defects: against a plain version, at its edges, and through changes of a bank."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from anomalib_nagl.bank.adapted import Limits, ReferencePatches, assemble
from anomalib_nagl.bank.bank_file import BankFile
from anomalib_nagl.bank.discriminant import DEFECT_WEIGHT, SHRINKAGE, WEIGHT, defect_share, directions
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.bank.views import origins, symmetries, view

GRID, WIDTH = (6, 6), 5
FACTS = {
    "backbone": "none", "head": "none", "grid": list(GRID), "image_size": [60, 60], "dim": WIDTH, "num_proxies": 3,
    "context": True, "shifted_grid": False, "proxies": False, "shared_mining": True, "bank_limit": 30,
}  # fmt: skip


def unit(tokens: np.ndarray) -> np.ndarray:
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def plain(normal: np.ndarray, defects: np.ndarray, spread: float) -> np.ndarray:
    """Fisher's direction by the textbook, patch by patch."""
    normal, defects = unit(normal.astype(np.float64)), unit(defects.astype(np.float64))
    covariance = np.cov(normal.T, bias=True)
    sphere = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere
    direction = np.linalg.inv(shrunk) @ (defects.mean(axis=0) - normal.mean(axis=0))
    return WEIGHT * spread * direction / (normal @ direction).std()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("patches", [200, 3])
def test_directions_are_those_of_the_textbook(seed: int, patches: int) -> None:
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((7, 7))
    normal = (generator.standard_normal((patches, 7)) @ mixing + 2).astype(np.float32)
    defects = generator.standard_normal((1 + seed % 4, 7)).astype(np.float32)
    found = directions(Moments.of(normal), [Moments.of(defects).mean], 0.03)
    assert found[0] == pytest.approx(plain(normal, defects, 0.03), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("normal", [np.ones((9, 4)), np.zeros((0, 4)), np.zeros((3, 4))])
def test_nothing_is_told_where_normal_patches_are_all_alike(normal: np.ndarray) -> None:
    found = directions(Moments.of(normal.astype(np.float32)), [np.arange(4.0)], 0.1)
    assert found.tolist() == [[0.0] * 4]


def test_a_similarity_that_scatters_counts_for_less() -> None:
    assert defect_share(0.02, 0.01) == DEFECT_WEIGHT
    assert defect_share(0.01, 0.04) == pytest.approx(DEFECT_WEIGHT / 4)
    assert defect_share(0.01, 0.0) == 0.0


def test_sums_are_added_and_taken_away_again() -> None:
    generator = np.random.default_rng(1)
    one, two = (Moments.of(generator.standard_normal((8, 3)).astype(np.float32)) for _ in range(2))
    back = one.plus(two).minus(two)
    assert back.number == 8
    assert back.covariance == pytest.approx(one.covariance, abs=1e-14)


def test_packed_sums_come_back_and_a_flipped_bit_is_noticed() -> None:
    moments = Moments.of(np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32))
    data = moments.pack()
    again = Moments.unpack(data, 3)
    assert again is not None
    assert (again.number, again.total.tolist()) == (8, moments.total.tolist())
    assert np.array_equal(again.outer, (moments.outer + moments.outer.T) / 2)
    for place in range(len(data)):
        assert Moments.unpack(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :], 3) is None
    for other in (b"", data[:-1], None, "text"):
        assert Moments.unpack(other, 3) is None


def lesson(kind: str, name: str, seed: int) -> Lesson:
    generator = np.random.default_rng(seed)
    marked = np.zeros(36, np.float32)
    if kind == "abnormal":
        marked[seed % 30 : seed % 30 + 2] = 1
    tokens = generator.standard_normal((36, WIDTH)).astype(np.float32)
    reference = Reference(kind, name, localized=kind == "abnormal", sha256=f"{seed:064x}")
    return Lesson.of(reference, tokens, marked, GRID)


def state(path: Path, bank: BankFile | None = None) -> dict[str, np.ndarray]:
    bank = bank or BankFile(path, FACTS)
    found = bank.snapshot()
    with bank.read_at_once():
        return assemble(found.patches)


@pytest.mark.parametrize("normal", [True, False])
def test_lessons_and_undo_equal_assembling_anew(tmp_path: Path, normal: bool) -> None:
    first = [lesson("normal", "part", 0)] if normal else [lesson("abnormal", "first", 0)]
    taught = BankFile.create(tmp_path / "taught.bank", FACTS, {}, first, None)
    state(tmp_path, taught)
    for seed in range(1, 9):
        taught.add(lesson("abnormal" if seed % 2 else ("normal" if normal else "abnormal"), f"lesson {seed}", seed))
        state(tmp_path, taught)  # the running sums go along with every change
    taught.remove("lesson 3")
    taught.switch("lesson 4", False)
    state(tmp_path, taught)
    taught.undo()
    taught.remove("lesson 8")
    kept = [*first, *(taught.lesson(f"lesson {seed}") for seed in (1, 2, 4, 5, 6, 7))]
    anew = BankFile.create(tmp_path / "anew.bank", FACTS, {}, kept, None)
    found, expected = state(tmp_path, taught), state(tmp_path, anew)
    assert np.abs(expected["defect_directions"]).max() > 0
    for name in ("defect_directions", "normal_mean", "defect_weight"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


def test_a_bank_without_kept_sums_makes_them_of_its_patches(tmp_path: Path) -> None:
    bank = BankFile.create(
        tmp_path / "part.bank", FACTS, {}, [lesson("normal", "part", 0), lesson("abnormal", "dent", 1)], None
    )
    expected = state(tmp_path, bank)
    with closing(sqlite3.connect(tmp_path / "part.bank")) as connection, connection:
        connection.execute("DROP TABLE moment")
    found = state(tmp_path, BankFile(tmp_path / "part.bank", FACTS))
    assert found["defect_directions"] == pytest.approx(expected["defect_directions"], rel=1e-5)


def patches_of(normal: np.ndarray, abnormal: np.ndarray, marked: np.ndarray, localized: bool) -> ReferencePatches:
    return ReferencePatches.of(
        list(normal), abnormal, marked, np.array([localized] * len(abnormal)), GRID, True, Limits.of(None)
    )


@pytest.mark.parametrize("localized", [True, False])
@pytest.mark.parametrize("count", [1, 2, 35, 36])
@pytest.mark.parametrize("images", [0, 1])
def test_every_tensor_stays_finite(localized: bool, count: int, images: int) -> None:
    generator = np.random.default_rng(count)
    marked = np.zeros((1, 36), np.float32)
    marked[0, :count] = 1
    if not images and count == 36:
        return  # without a normal patch there is nothing to compare with
    normal = generator.standard_normal((images, 36, 50)).astype(np.float32)  # wider than many patches
    found = assemble(patches_of(normal, generator.standard_normal((1, 36, 50)).astype(np.float32), marked, localized))
    assert all(np.isfinite(array).all() for array in found.values())
    told = np.abs(found["defect_directions"]).max() > 0
    # An image that is all defect shows no direction, and a single normal patch has no covariance.
    assert told == (count < (36 if images else 35))


def test_views_keep_places_of_the_image_as_it_is() -> None:
    tokens = np.arange(36, dtype=np.float32).reshape(6, 6)
    numbers = symmetries("all", (60, 60))
    seen = np.concatenate([view(tokens, number).reshape(-1) for number in numbers])
    assert len({view(tokens, number).tobytes() for number in numbers}) == 8
    assert seen.astype(int).tolist() == origins(GRID, numbers).tolist()
    assert symmetries("turns", (60, 80)) == (0, 2)
    assert symmetries("none", (60, 80)) == (0,)
    with pytest.raises(ValueError, match="expected auto, or one of none, turns, all"):
        symmetries("some", (60, 60))
