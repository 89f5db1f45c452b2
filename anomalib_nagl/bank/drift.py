"""Whether what a detector sees drifts away from its references: how alike images are to what is normal, day by day.

The similarity of an image is the median, over its patches, of the largest cosine to a patch of a normal reference. A
defect is a small part of an image and hardly moves it; another light, another focus or another part moves all of it.
What is expected is what references have among each other, each compared with the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.held_out import sample
from anomalib_nagl.bank.patch_masks import l2_normalize
from anomalib_nagl.bank.pools import heads

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]
BINS = 2000  # of similarities from -1 to 1: quantiles are exact to 0.001, whatever the number of images
SAMPLE = 8  # references that are compared with the others
FEWEST = 20  # images of a day before anything is said of it
DAYS = 92  # that are kept, the latest ones: about a season
BLOCK = 4096  # patches of an image that are compared at once
LESS, MORE = "less", "more"  # alike than references are to each other
# The median of a day may be so many times as far away (1 - similarity) as the median reference is from the others.
# Chosen on images that darken, see docs/boxes.md.
FARTHER, CLOSER = 1.2, 0.25


class Range(NamedTuple):
    """The similarities that normal references have among each other: the lowest, the median, the highest."""

    low: float
    middle: float
    high: float

    @property
    def allowed(self) -> tuple[float, float]:
        """Between what the median of a day may be."""
        return 1 - FARTHER * (1 - self.middle), 1 - CLOSER * (1 - self.middle)

    def side(self, median: float | None, images: int) -> str | None:
        """Where the median of a day with so many images left the range, ``LESS`` or ``MORE``; None where it did not.

        None where too little is known as well.
        """
        if median is None or images < FEWEST:
            return None
        low, high = self.allowed
        return LESS if median < low else MORE if median > high else None

    def sentence(self, day: str, median: float, side: str) -> str:
        """What is to be said of a day whose median left the range."""
        look = {
            LESS: "look at light, focus and position, or add good images of today",
            MORE: "look whether the camera still sends new images",
        }[side]
        low, high = self.allowed
        return (
            f"images of {day} are {side} like the normal references than these are like each other: similarity "
            f"{median:.3f} (median), expected {low:.3f} to {high:.3f}, as references have {self.middle:.3f}; {look}"
        )


def similarity(tokens: Floats, normal: Floats, inside: NDArray[np.bool_] | None = None) -> float:
    """How alike the patches (M, C) of an image, those ``inside`` (M,), and unit normal patches (K, C) are."""
    seen = tokens if inside is None else tokens[inside]
    blocks = (l2_normalize(seen[start : start + BLOCK]) @ normal.T for start in range(0, len(seen), BLOCK))
    return float(np.median(np.concatenate([block.max(axis=1) for block in blocks])))


def normal_patches(patches: ReferencePatches) -> Floats:
    """Unit patches (K, C) of normal references, as far as queries are compared with them."""
    return l2_normalize(heads(patches.normal, patches.limits.normal, patches.width))


def own_range(patches: ReferencePatches) -> Range | None:
    """What normal references have among each other; None with less than two of them.

    A region that was said to be fine is compared with, but is no image that could be like the others.
    """
    normal, found = patches.normal, []
    largest = max(map(len, normal), default=0)
    whole = [index for index, pool in enumerate(normal) if 2 * len(pool) >= largest]
    if len(whole) < 2:
        return None
    for place in sample([normal[index].key for index in whole], SAMPLE):
        index = whole[place]
        others = heads(normal[:index] + normal[index + 1 :], patches.limits.normal, patches.width)
        pool = normal[index]
        upright = pool.places(len(pool)) < patches.cells  # views of it would be less alike than an image is
        if upright.any():
            found.append(similarity(pool.head(len(pool))[upright], l2_normalize(others)))
    return Range(min(found), float(np.median(found)), max(found)) if found else None


class Drift:
    """Similarities of images day by day, and those of references; ``days`` are counts (``BINS``,) by date.

    The latest ``DAYS`` days are kept.
    """

    def __init__(self, own: Range | None = None, days: Mapping[str, Counts] | None = None) -> None:
        self.own, self.days = own, dict(days or {})
        self._forget()

    def add(self, day: str, value: float) -> None:
        """Count an image of a day, as 2026-01-31."""
        place = min(max(int((value + 1) / 2 * BINS), 0), BINS - 1)
        self.days.setdefault(day, np.zeros(BINS, np.int64))[place] += 1
        self._forget()

    def _forget(self) -> None:
        while len(self.days) > DAYS:
            del self.days[min(self.days)]

    def median(self, day: str) -> float | None:
        """The median of a day; None without an image."""
        return quantile(self.days[day]) if day in self.days else None

    def side(self, day: str) -> str | None:
        """Where a day left the range (``Range.side``); None where it did not, or too little is known."""
        return None if self.own is None else self.own.side(self.median(day), self._images(day))

    def sentence(self, day: str) -> str | None:
        """What is to be said of a day whose median left the range; None where it did not, or too little is known."""
        found, side = self.median(day), self.side(day)
        return None if self.own is None or found is None or side is None else self.own.sentence(day, found, side)

    def _images(self, day: str) -> int:
        return int(self.days[day].sum()) if day in self.days else 0

    def facts(self, day: str) -> dict[str, Any]:
        """A day as JSON."""
        own = None if self.own is None else list(self.own)
        allowed = None if self.own is None else list(self.own.allowed)
        return {
            "day": day, "images": self._images(day), "median": self.median(day), "references": own, "allowed": allowed,
            "sentence": self.sentence(day),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """All days; counts as pairs of place and number."""
        days = {
            day: [[int(place), int(counts[place])] for place in np.flatnonzero(counts)]
            for day, counts in sorted(self.days.items())
        }
        return {"bins": BINS, "references": None if self.own is None else list(self.own), "days": days}

    @classmethod
    def of_json(cls, content: object) -> Drift:
        """Read it; what cannot be is as if no image had been seen."""
        found = cls()
        if not isinstance(content, Mapping) or content.get("bins") != BINS:
            return found
        try:
            for day, pairs in content["days"].items():
                counts = np.zeros(BINS, np.int64)
                for place, number in pairs:
                    counts[int(place)] += max(int(number), 0)
                found.days[str(day)] = counts
            found._forget()
            own = tuple(map(float, content["references"] or ()))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            return cls()
        if len(own) == len(Range._fields) and all(map(math.isfinite, own)):
            found.own = Range(*own)
        return found


def quantile(counts: Counts, share: float = 0.5) -> float | None:
    """The value below which a share of counted similarities lies; None of none."""
    total = counts.sum()
    if not total:
        return None
    place = int(np.searchsorted(counts.cumsum(), share * total))
    return (place + 0.5) / BINS * 2 - 1
