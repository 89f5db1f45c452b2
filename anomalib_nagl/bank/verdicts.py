"""From a score, a threshold and the regions of a map to a verdict: good, defective, or to be looked at again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.regions import find_regions
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN, NO_VERDICT, PredictionRow, Region

REVIEW = 0.05  # to either side of the threshold
# No band is narrower: runtimes that compute in float32 differ by 2e-6 (docs/results.md, Cost on a box), and tests hold
# the box to torch within 1e-5 (tests/edge). Ten times that, so that no part is good on one machine and bad on another.
NARROWEST = 1e-4


ENOUGH = 4  # normal references that a threshold can be decided from


def remarks(normal: int, overlap: bool) -> list[str]:
    """What is to be said of verdicts by so many normal references, whose scores may ``overlap`` with known defects."""
    found = []
    if normal < ENOUGH:
        many = f"{normal} good reference{'s' * (normal != 1)}"
        found.append(f"The threshold is a guess, made from {many}: add good ones until there are {ENOUGH} or more.")
    if overlap:
        found.append(
            "These references do not tell for certain where the threshold lies, since a good one, scored as if it were "
            "new, stands out as much as a defective one: look at the pictures before you trust a verdict, and add good "
            "references, masks of the defects, or a stronger --backbone."
        )
    return found


class Rules(NamedTuple):
    """What decides a verdict, on the scale of the scores.

    ``threshold`` of images and ``pixel_threshold`` of maps are None where there is none: then there is no verdict, and
    there are no regions. ``review`` is how far from the threshold a score has to be to be decided. Regions smaller
    than ``min_area`` do not make a part defective: pixels of the image, or mm² where a pixel is ``pixel_size`` mm wide.
    """

    threshold: float | None
    pixel_threshold: float | None
    review: float = REVIEW
    min_area: float = 0.0
    pixel_size: float | None = None

    def check(self) -> Rules:
        """Return these rules; EdgeError for a number that cannot be one."""
        given = {"threshold": self.threshold, "review": self.review, "min-area": self.min_area}
        for name, value in {**given, "pixel-size": self.pixel_size}.items():
            if value is None or (math.isfinite(value) and (name == "threshold" or value >= 0)):
                continue
            expected = "a finite number" if name == "threshold" else "0 or more"
            raise EdgeError(f"found --{name} {value}, expected {expected}")
        return self

    @property
    def band(self) -> float:
        """Half-width of the band in which a part is to be looked at again."""
        return max(self.review, NARROWEST)


class Found(NamedTuple):
    """What a detector says of an image: score, anomaly map (h, w) of any size, and the reference it resembles most."""

    score: float
    map: NDArray[np.float32]
    nearest: NearestReference | None = None


def decide(score: float, regions: Sequence[Region], rules: Rules) -> str:
    """The verdict; where a smallest area is asked for and no region has it, the part is good."""
    if rules.threshold is None:
        return NO_VERDICT
    if rules.min_area and rules.pixel_threshold is not None and not any(_large(one, rules) for one in regions):
        return GOOD
    if abs(score - rules.threshold) <= rules.band:
        return LOOK_AGAIN
    return DEFECTIVE if score > rules.threshold else GOOD


def _large(region: Region, rules: Rules) -> bool:
    return region.area * (1.0 if rules.pixel_size is None else rules.pixel_size**2) >= rules.min_area


def judge(image: str, found: Found, size: tuple[int, int], rules: Rules) -> PredictionRow:
    """The row of an image of ``size`` (height, width)."""
    pixel = rules.pixel_threshold
    regions = () if pixel is None else find_regions(found.map, pixel, size)
    nearest, verdict = found.nearest, decide(found.score, regions, rules)
    name, kind = ("", "") if nearest is None else (nearest.name, nearest.defect_type)
    told = None if nearest is None or verdict == GOOD else nearest.found_type
    row = PredictionRow(image, verdict, found.score, rules.threshold, name, kind, regions)
    return row if told is None else row._replace(defect_type=told.label)
