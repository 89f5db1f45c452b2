"""How alike what is seen is to the references: measured, kept day by day, told when it leaves its range."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.drift import BINS, DAYS, FEWEST, Drift, Range, normal_patches, own_range, quantile, similarity

GRID, WIDTH = (4, 5), 12


def image(seed: int, shift: float = 0.0) -> np.ndarray:
    """Patches of a part: the same ones on every image with some noise, and something that all of them have."""
    base = np.random.default_rng(0).normal(size=(20, WIDTH))
    noise = np.random.default_rng(seed).normal(size=base.shape)
    return (base + 0.3 * noise + shift * np.arange(WIDTH)).astype(np.float32)


def references(number: int) -> ReferencePatches:
    none = np.zeros((0, 20, WIDTH), np.float32)
    normal = [image(seed) for seed in range(1, number + 1)]
    return ReferencePatches.of(
        normal, none, none[..., 0], np.zeros(0, bool), GRID, True, keys=list("abcdefgh")[:number]
    )


def test_the_range_is_what_references_have_among_each_other() -> None:
    given = references(4)
    found = own_range(given)
    for index, low in ((0, found.low), (3, found.low)):
        others = np.concatenate([image(seed) for seed in range(1, 5) if seed != index + 1])
        unit = others / np.linalg.norm(others, axis=1, keepdims=True)
        assert low - 1e-6 <= similarity(image(index + 1), unit) <= found.high + 1e-6
    assert own_range(references(1)) is None
    new = similarity(image(99), normal_patches(given))
    assert found.allowed[0] < new < found.allowed[1]
    assert similarity(image(99, shift=0.3), normal_patches(given)) < found.allowed[0]


def test_regions_that_are_fine_are_no_images() -> None:
    none = np.zeros((0, 20, WIDTH), np.float32)
    odd = -image(7)[:4]  # four patches like no other
    parts = [image(1), image(2), odd]

    def given(normal: list[np.ndarray], keys: str) -> ReferencePatches:
        return ReferencePatches.of(normal, none, none[..., 0], np.zeros(0, bool), GRID, True, keys=list(keys))

    assert own_range(given(parts, "abc")) == pytest.approx(own_range(given(parts[:2], "ab")), abs=1e-6)
    assert own_range(given(parts[1:], "ac")) is None
    # But what they show is normal.
    seen = np.concatenate([image(9)[:5], np.repeat(odd, 3, axis=0)])
    assert similarity(seen, normal_patches(given(parts, "abc"))) > similarity(
        seen, normal_patches(given(parts[:2], "ab"))
    )


def test_only_patches_inside_the_region_count() -> None:
    seen = image(99)
    inside = np.arange(20) < 11
    spoilt = np.where(inside[:, None], seen, -seen)
    normal = normal_patches(references(3))
    assert similarity(seen, normal, inside) == similarity(spoilt, normal, inside)
    assert similarity(seen, normal) > similarity(spoilt, normal)


def test_quantiles_are_those_of_all_values() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, 5001)
    drift = Drift()
    for value in values:
        drift.add("2026-01-01", float(value))
    for share in (0.05, 0.5, 0.95):
        assert quantile(drift.days["2026-01-01"], share) == pytest.approx(np.quantile(values, share), abs=2 / BINS)
    assert quantile(np.zeros(BINS, np.int64)) is None
    drift.add("2026-01-01", 1.0)
    drift.add("2026-01-01", -1.5)
    assert drift.days["2026-01-01"][[0, -1]].min() >= 1


def test_a_day_is_told_of_once_it_has_enough_images_and_left_the_range() -> None:
    drift = Drift(Range(0.88, 0.90, 0.95))
    for number in range(FEWEST):
        assert drift.sentence("2026-01-01") is None
        drift.add("2026-01-01", 0.80 if number % 2 else 0.86)
    assert "less like the normal references" in drift.sentence("2026-01-01")
    assert drift.facts("2026-01-01")["images"] == FEWEST
    for _ in range(FEWEST):
        drift.add("2026-01-02", 0.885)  # a little below, as new images may be
        drift.add("2026-01-03", 0.98)
    assert drift.sentence("2026-01-02") is None
    assert "more like the normal references" in drift.sentence("2026-01-03")
    assert Drift(None, drift.days).sentence("2026-01-01") is None


def test_days_are_kept_and_broken_files_are_as_none() -> None:
    drift = Drift(Range(0.9, 0.92, 0.95))
    for value in (0.5, 0.5, 0.7):
        drift.add("2026-01-01", value)
    again = Drift.of_json(json.loads(json.dumps(drift.to_json())))
    assert again.own == drift.own
    assert np.array_equal(again.days["2026-01-01"], drift.days["2026-01-01"])
    whole = drift.to_json()
    for broken in (None, 7, {}, {**whole, "bins": 3}, {**whole, "days": {"x": [[BINS, 1]]}}, {**whole, "days": [1]}):
        assert Drift.of_json(broken).days == {}
    assert Drift.of_json({**whole, "references": [1]}).own is None


def test_the_latest_days_are_kept() -> None:
    drift = Drift()
    for number in range(DAYS + 10):
        drift.add(f"2026-{number // 28 + 1:02}-{number % 28 + 1:02}", 0.5)
    assert len(drift.days) == DAYS
    assert min(drift.days) == "2026-01-11"
    drift.add("2025-12-31", 0.5)
    assert "2025-12-31" not in drift.days
    more = {"2026-12-01": drift.days["2026-01-11"], **drift.days}
    assert min(Drift.of_json(Drift(None, more).to_json()).days) == "2026-01-12"


def test_patches_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, normal = image(99), normal_patches(references(3))
    whole = similarity(seen, normal)
    monkeypatch.setattr("anomalib_nagl.bank.drift.BLOCK", 7)
    assert similarity(seen, normal) == pytest.approx(whole, abs=1e-6)
