"""The scale on which scores and maps are shown: 0.5 is the calibrated threshold, whatever the part and the backbone.

Image scores and pixels each have a mapping of their own, made of three raw numbers. It rises everywhere and has no end
at which scores become equal: beyond what was seen it flattens as 1 / x does, slower than a logistic curve, so that
float32 still tells apart what it told apart before. ``core.scale`` is its twin in torch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GOOD, MIDDLE, DEFECTIVE = 0.2, 0.5, 0.8  # where the three raw numbers of a scale are shown
STEEPNESS = 1.5  # of the curve in units of the distance from the threshold: it makes 0.2 and 0.8 of the two numbers
LEAST = 0.1  # of the distance between both numbers: neither lies closer to the threshold, or the curve would be a step
NARROWEST = 1e-6  # raw distance below which nothing is told apart
Floats = NDArray[np.float32]


class Scale(NamedTuple):
    """Raw scores that are shown as 0.2, 0.5 and 0.8: that of good parts, the threshold, that of known defects.

    NaN where there is none: without the threshold the middle of the others is shown as 0.5, and without one of the
    others scores are shown as they are.
    """

    raw_good: float
    raw_threshold: float
    raw_defective: float

    @property
    def known(self) -> bool:
        """Whether there is a threshold."""
        return math.isfinite(self.raw_threshold)

    def shown(self, raw: Any) -> Floats:
        """Raw scores on this scale, as float32."""
        values = np.asarray(raw, np.float32)
        good, middle, defective = (np.float32(value) for value in self._whole())
        if not np.isfinite(good + defective):
            return values
        low, high = self._distances(good, middle, defective)
        far = np.float32(STEEPNESS) * (values - middle) / np.where(values < middle, low, high)
        return (np.float32(0.5) + np.float32(0.5) * far / (1 + np.abs(far))).astype(np.float32)

    def raw(self, shown: float) -> float:
        """The raw score that is shown as a number between 0 and 1."""
        good, middle, defective = self._whole()
        if not math.isfinite(good + defective):
            return shown
        low, high = self._distances(good, middle, defective)
        far = 2 * shown - 1
        return float(middle + far / (1 - abs(far)) / STEEPNESS * (low if far < 0 else high))

    def _whole(self) -> Scale:
        return self if self.known else self._replace(raw_threshold=(self.raw_good + self.raw_defective) / 2)

    @staticmethod
    def _distances(good: Any, middle: Any, defective: Any) -> tuple[Any, Any]:
        least = max(LEAST * abs(defective - good), NARROWEST)
        return max(middle - good, least), max(defective - middle, least)
