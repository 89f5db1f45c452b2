"""The scale of scores: three fixed points, no end, and the same in NumPy and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.core import scale as twin

SCALES = [
    Scale(0.2, 0.4, 0.9),
    Scale(0.1, math.nan, 0.5),  # no threshold: the middle
    Scale(0.3, 0.3, 0.3),
    Scale(0.2, 0.9, 0.6),  # a threshold beyond both
    Scale(math.nan, 0.4, 0.8),
    Scale(math.nan, math.nan, math.nan),
]


def test_the_three_numbers_are_shown_as_promised() -> None:
    one = Scale(0.21, 0.4, 0.97)
    assert one.shown([0.21, 0.4, 0.97]).tolist() == pytest.approx([0.2, 0.5, 0.8], abs=1e-6)


@pytest.mark.parametrize("one", SCALES)
def test_torch_and_numpy_agree(one: Scale) -> None:
    raw = np.concatenate([np.linspace(-1, 3, 401), [0.3, 0.4, 1e4, -1e4]]).astype(np.float32)
    found = twin.shown(torch.from_numpy(raw), *(torch.tensor(value) for value in one)).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - one.shown(raw)).max() <= 2e-7 * max(1, np.abs(found).max())
    assert np.array_equal(found > 0.5, one.shown(raw) > 0.5)


@pytest.mark.parametrize("one", SCALES[:2])
def test_scores_far_from_the_threshold_stay_apart(one: Scale) -> None:
    """None is cut off, and a thousandth of a width makes a difference even a hundred widths away."""
    width = one.raw_defective - one.raw_good
    for place in (-100, -10, -1, 0, 1, 10, 100):
        raw = (one.raw_good + width * (place + np.arange(0, 0.1, 1e-3 * max(1, abs(place))))).astype(np.float32)
        shown = one.shown(raw)
        assert (np.abs(shown - 0.5) < 0.5).all()
        assert (np.diff(shown) > 0).all()


@pytest.mark.parametrize("one", [*SCALES[:2], SCALES[4]])
def test_the_raw_score_can_be_had_back(one: Scale) -> None:
    for raw in (0.05, 0.2, 0.41, 0.8, 2.5):
        assert one.raw(float(one.shown(raw))) == pytest.approx(raw, abs=1e-5)
