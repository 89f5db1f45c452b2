"""Verdicts and regions: pure rules of a score, a threshold and a map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from anomalib_nagl.bank.regions import find_regions, label_regions
from anomalib_nagl.bank.verdicts import NARROWEST, Found, Rules, decide, judge, remarks
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN, NO_VERDICT, Region

SPECK, PATCH = Region((0, 0, 2, 2), 4, 0.9), Region((5, 5, 25, 25), 400, 0.6)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_regions_are_those_of_scipy(mask: np.ndarray) -> None:
    label, number = label_regions(mask)
    expected, expected_number = ndimage.label(mask, np.ones((3, 3)))
    assert number == expected_number
    pairs = set(zip(label.tolist(), expected[mask].tolist(), strict=True))
    assert len(pairs) == number  # one name for another


def test_regions_are_told_in_pixels_of_the_image() -> None:
    values = np.zeros((10, 20), np.float32)
    values[2:4, 5:9], values[9, 19] = 0.8, 0.9
    first, second = find_regions(values, 0.5, (100, 400))
    assert first == Region((380, 90, 400, 100), 200, pytest.approx(0.9))
    assert second == Region((100, 20, 180, 40), 8 * 200, pytest.approx(0.8))
    assert find_regions(values, 0.95, (100, 400)) == ()


def test_a_band_around_the_threshold_is_looked_at_again() -> None:
    rules = Rules(threshold=0.5, pixel_threshold=0.5, review=0.05)
    found = [decide(score, (), rules) for score in (0.44, 0.4501, 0.5, 0.5499, 0.56)]
    assert found == [GOOD, LOOK_AGAIN, LOOK_AGAIN, LOOK_AGAIN, DEFECTIVE]
    narrow = rules._replace(review=0)
    assert [decide(0.5 + NARROWEST * share, (), narrow) for share in (-2, -0.5, 0.5, 2)] == [
        GOOD, LOOK_AGAIN, LOOK_AGAIN, DEFECTIVE,
    ]  # fmt: skip
    assert decide(0.9, (), rules._replace(threshold=None)) == NO_VERDICT


@pytest.mark.parametrize(("least", "pixel_size", "expected"), [
    (0, None, DEFECTIVE), (100, None, DEFECTIVE), (401, None, GOOD), (1, 0.1, DEFECTIVE), (5, 0.1, GOOD),
])  # fmt: skip
def test_small_regions_do_not_make_a_part_defective(least: float, pixel_size: float | None, expected: str) -> None:
    rules = Rules(0.5, 0.5, 0.05, least, pixel_size)
    assert decide(0.9, (SPECK, PATCH), rules) == expected
    assert decide(0.9, (SPECK,), rules) == (GOOD if least else DEFECTIVE)


def test_a_row_has_all_that_is_known() -> None:
    values = np.full((4, 4), 0.2, np.float32)
    values[0, 0] = 0.7
    row = judge("a.png", Found(0.7, values), (8, 8), Rules(0.5, 0.5))
    assert row[:4] == ("a.png", DEFECTIVE, 0.7, 0.5)
    assert row.regions == (Region((0, 0, 2, 2), 4, pytest.approx(0.7)),)
    assert judge("a.png", Found(0.7, values), (8, 8), Rules(0.5, None)).regions == ()


@pytest.mark.parametrize("wrong", [
    {"threshold": float("nan")}, {"review": -0.1}, {"min_area": float("inf")}, {"pixel_size": -1.0},
])  # fmt: skip
def test_numbers_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(EdgeError, match=f"found --{next(iter(wrong)).replace('_', '-')} "):
        Rules(0.5, 0.5)._replace(**wrong).check()


def test_what_is_said_of_few_or_overlapping_references() -> None:
    assert remarks(4, overlap=False) == []
    assert "made from 1 good reference:" in remarks(1, overlap=False)[0]
    assert ["guess" in one for one in remarks(2, overlap=True)] == [True, False]
