"""Patches that stand for all: which ones are kept depends on what there is, not on its order."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_nagl.bank import selection
from anomalib_nagl.bank.selection import Ranking, rank, select, shares

SEEDS = range(8)


def clustered(seed: int, count: int, width: int = 12) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((9, width)) * 3
    return (centres[generator.integers(0, 9, count)] + generator.standard_normal((count, width))).astype(np.float32)


def unit(tokens: np.ndarray) -> np.ndarray:
    return tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)


def radius(tokens: np.ndarray, kept: np.ndarray) -> float:
    """The largest cosine distance of any patch to the nearest kept one."""
    return float((1 - (unit(tokens) @ unit(tokens[kept]).T).max(axis=1)).max())


def naive(tokens: np.ndarray, first: int, limit: int) -> list[int]:
    """Greedy selection, one by one."""
    chosen, alike = [first], unit(tokens) @ unit(tokens[first])
    while len(chosen) < limit:
        chosen.append(int(alike.argmin()))
        alike = np.maximum(alike, unit(tokens) @ unit(tokens[chosen[-1]]))
    return chosen


@pytest.fixture(params=[selection.POOL, 16], ids=["one-round", "many-rounds"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "POOL", request.param)
    monkeypatch.setattr(selection, "BLOCK", 64)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_patches_does_not_matter(seed: int) -> None:
    tokens, generator = clustered(seed, 300), np.random.default_rng(seed)
    tokens[10:20] = tokens[:10]  # copies
    kept = tokens[select(tokens, 40)]
    for _ in range(5):
        mixed = tokens[generator.permutation(len(tokens))]
        again = mixed[select(mixed, 40)]
        assert sorted(map(bytes, again)) == sorted(map(bytes, kept))


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("seed", SEEDS)
def test_it_covers_as_selection_one_by_one_does(seed: int) -> None:
    tokens = clustered(seed, 400)
    order = rank(tokens, 40).order
    assert radius(tokens, order) <= 1.02 * radius(tokens, np.array(naive(tokens, int(order[0]), 40)))


@pytest.mark.usefixtures("pool")
def test_the_least_covered_patch_is_next_and_gains_fall() -> None:
    tokens = clustered(0, 200)
    found = rank(tokens)
    assert sorted(found.order) == list(range(200))
    assert np.isinf(found.gain[0])
    assert (np.diff(found.gain[1:]) <= 0).all()
    for place in (1, 7, 60):
        assert found.gain[place] == pytest.approx(radius(tokens, found.order[:place]), abs=5e-3)
    assert rank(tokens, 50).order.tolist() == found.order[:50].tolist()


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 5000])
def test_limits_hold(limit: int) -> None:
    kept = select(clustered(0, 100), limit)
    assert len(kept) == min(limit, 100)
    assert (np.diff(kept) > 0).all()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (np.zeros((50, 3), np.float32), 1),
        (np.ones((50, 3), np.float32), 1),
        (np.repeat(np.eye(3, dtype=np.float32), 9, axis=0), 3),
        (np.concatenate([np.zeros((9, 3)), np.eye(3), -np.eye(3)]).astype(np.float32), 6),
        (np.ones((1, 3), np.float32), 1),
        (np.empty((0, 3), np.float32), 0),
    ],
)
def test_no_more_are_kept_than_differ(tokens: np.ndarray, expected: int) -> None:
    kept = select(tokens, 8)
    assert expected <= len(kept) <= expected + (not tokens[kept].any(axis=1).all())  # a zero one is like any


def test_a_limit_of_no_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="limit of 0 patches, expected at least 1"):
        select(clustered(0, 10), 0)


@pytest.mark.parametrize("width", [3, 384, 1280])
def test_products_are_exact(width: int) -> None:
    """So that they do not depend on the place of a patch, nor on who multiplies."""
    tokens = np.random.default_rng(0).standard_normal((40, width)).astype(np.float32)
    tokens[0] = 1  # every entry rounded the same way
    rows = selection._whole_numbers(tokens, np.arange(40))
    exact = rows.astype(np.int64) @ rows.astype(np.int64).T
    assert np.abs(exact).max() <= selection.LENGTH**2
    assert np.array_equal(exact, (rows @ rows.T).astype(np.int64))


def ranked(seed: int, references: int) -> tuple[list[Ranking], list[str]]:
    parts = [clustered(seed * 100 + i, 30 + i) for i in range(references)]
    return [rank(part) for part in parts], [f"{hash((seed, i)) % 10**9:09}" for i in range(references)]


@pytest.mark.parametrize("limit", [1, 3, 8, 50, 117, 10_000])
@pytest.mark.parametrize("seed", SEEDS)
def test_shares_are_the_largest_gains_of_all(seed: int, limit: int) -> None:
    rankings, keys = ranked(seed, 6)
    kept = shares([one.gain for one in rankings], keys, limit)
    assert sum(kept) == min(limit, sum(len(one.gain) for one in rankings))
    least = min(one.gain[count - 1] for one, count in zip(rankings, kept, strict=True) if count)
    most = max([one.gain[count] for one, count in zip(rankings, kept, strict=True) if count < len(one.gain)] + [0])
    assert least >= most


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_do_not_depend_on_the_order_of_references(seed: int) -> None:
    rankings, keys = ranked(seed, 6)
    rankings[3] = rankings[1]  # equal gains: keys decide
    order = np.random.default_rng(seed).permutation(6)
    for limit in (2, 9, 40, 77):
        kept = shares([one.gain for one in rankings], keys, limit)
        assert [kept[i] for i in order] == shares([rankings[i].gain for i in order], [keys[i] for i in order], limit)


def test_shares_of_no_references() -> None:
    assert shares([], [], 5) == []
