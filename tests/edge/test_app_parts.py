"""Parts of the page's server alone: kept tokens, outlines, suggestions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalib_nagl.edge.app import kept_tokens
from anomalib_nagl.edge.app.kept_tokens import CHUNK, KeptTokens
from anomalib_nagl.edge.app.outlines import outlined, suggest, trace


def test_tokens_come_back_and_places_are_used_again(tmp_path: Path) -> None:
    kept, rng = KeptTokens(tmp_path, (6, 5)), np.random.default_rng(0)
    many = {i: rng.standard_normal((6, 5)).astype(np.float32) for i in range(3 * CHUNK)}
    assert all(kept.put(i, tokens) for i, tokens in many.items())
    assert all(np.array_equal(kept.get(i), tokens) for i, tokens in many.items())
    for i in range(CHUNK):
        kept.forget(i)
        assert kept.get(i) is None
        assert kept.put(1000 + i, many[i])
    assert all(np.array_equal(kept.get(1000 + i), many[i]) for i in range(CHUNK))
    assert len(list(tmp_path.iterdir())) == 3
    assert kept.get(5000) is None


def test_large_ones_are_kept_in_half_precision(tmp_path: Path) -> None:
    kept = KeptTokens(tmp_path, (1000, 200))
    tokens = np.random.default_rng(0).standard_normal((1000, 200)).astype(np.float32)
    assert kept.put(0, tokens)
    found = kept.get(0)
    assert found is not None
    assert found.dtype == np.float32
    assert 0 < np.abs(found - tokens).max() < 2e-3
    assert not kept.put(1, tokens * 1e6)  # no number there


def test_without_room_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tokens, "RESERVE", 1 << 60)
    kept = KeptTokens(tmp_path, (6, 5))
    assert not kept.put(0, np.zeros((6, 5), np.float32))
    assert kept.get(0) is None
    assert not list(tmp_path.iterdir())


def area(line: list[tuple[int, int]]) -> float:
    """What a closed line encloses, negative where it runs the other way round."""
    x, y = np.array(line, float).T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def test_lines_enclose_what_is_marked() -> None:
    rng = np.random.default_rng(0)
    for mask in (
        np.ones((1, 1), bool),
        np.eye(4, dtype=bool),
        rng.random((20, 30)) > 0.4,
        np.pad(np.ones((3, 3), bool), 2),
    ):
        assert sum(map(area, trace(mask))) == mask.sum()
    ring = np.ones((5, 6), bool)
    ring[2, 2:4] = False
    assert sorted(map(area, trace(ring))) == [-2, 30]
    assert sorted(map(len, trace(ring))) == [4, 4]  # corners alone


def test_regions_lie_where_they_are_seen() -> None:
    values = np.zeros((20, 40), np.float32)
    values[2:4, 10:14], values[3, 12] = 0.7, 0.9
    values[15:17, 30:33] = 0.8
    first, second = outlined(values, 0.5, (400, 100))
    assert (first.box, first.peak, first.score) == ([100, 10, 40, 10], [125, 17], pytest.approx(0.9))
    assert second.box == [300, 75, 30, 10]
    assert np.array(first.outline[0]).min(0).tolist() == [100, 10]
    assert np.array(first.outline[0]).max(0).tolist() == [140, 20]
    assert outlined(values, 0.95, (400, 100)) == []


def test_a_suggestion_is_the_peak_that_is_meant() -> None:
    down, right = np.mgrid[:64, :64] / 64
    values = (0.9 * np.exp(-((down - 0.3) ** 2 + (right - 0.25) ** 2) / 0.004)).astype(np.float32)
    values += 0.5 * np.exp(-((down - 0.7) ** 2 + (right - 0.75) ** 2) / 0.004).astype(np.float32)
    highest, other = suggest(values, (128, 128), None), suggest(values, (128, 128), (0.74, 0.72))
    assert highest[38, 32]
    assert not highest[90, 96]
    assert other[90, 96]
    assert not other[38, 32]
    half = values[19, 16] / 2
    assert highest.mean() == pytest.approx((values[:40, :40] > half).sum() / values.size, rel=0.25)
    assert suggest(np.full((8, 8), 0.3, np.float32), (16, 16), (0.5, 0.5)).any()
    flat = np.full((64, 64), 0.6, np.float32)
    flat[:40] += 0.1 * np.mgrid[:40, :64][0] / 40
    assert 0 < suggest(flat, (64, 64), None).mean() <= 0.3
