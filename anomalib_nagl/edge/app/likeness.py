"""How alike the images of a gallery are to the saved normal references, day by day (``bank.drift``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.drift import DAYS, FEWEST, Range, normal_patches, own_range, similarity
from anomalib_nagl.edge.app.gallery import Picture
from anomalib_nagl.edge.detector import NaglEdge

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles of a day
_MEDIAN = SHARES.index(0.5)


class Seen(NamedTuple):
    """An image: its day, and how alike it is."""

    day: str
    value: float


@dataclass(frozen=True)
class _Known:
    """What images are compared with, and what was found: replaced where the normal references change."""

    key: Any = None
    normal: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    inside: NDArray[np.bool_] | None = None
    own: Range | None = None
    seen: dict[str, Seen] = field(default_factory=dict)


class Likeness:
    """Similarities of images by their id. One thread may ``follow``, any may note and ask."""

    def __init__(self) -> None:
        self._known, self._revision = _Known(), -1

    def follow(self, detector: NaglEdge) -> bool:
        """Compare with what a detector knows now; whether all images have to be compared anew."""
        bank = detector._snapshot
        if bank.revision == self._revision:
            return False
        patches = bank.patches
        key = tuple(pool.key for pool in patches.normal), patches.inside.tobytes()
        anew = key != self._known.key
        if anew:
            self._known = _Known(key, normal_patches(patches), patches.inside, own_range(patches))
        self._revision = bank.revision
        return anew

    def note(self, one: Picture, tokens: NDArray[np.float32]) -> None:
        """Compare an image by its tokens (M, C), where its day is known and it was not compared yet."""
        known = self._known
        if self.wants(one):
            known.seen[one.id] = Seen(str(day_of(one)), similarity(tokens, known.normal, known.inside))

    def wants(self, one: Picture) -> bool:
        """Whether an image is still to be compared; none is without normal references."""
        known = self._known
        return len(known.normal) > 0 and one.id not in known.seen and day_of(one) is not None

    def forget(self, image: str) -> None:
        """Forget an image that went away or was changed."""
        self._known.seen.pop(image, None)

    @property
    def compared(self) -> int:
        """How many images were compared."""
        return len(self._known.seen)

    def latest(self) -> dict[str, Any] | None:
        """The last day, if it left the range of the references."""
        known = self._known
        seen = list(known.seen.values())
        day = max((one.day for one in seen), default="")
        found = _day(day, [one.value for one in seen if one.day == day], known.own)
        return found if found["side"] else None

    def days(self, pictures: Iterable[Picture]) -> dict[str, Any]:
        """Quantiles of the last days, the range of the references, and how many images are still to be compared."""
        known, by_day = self._known, dict[str, list[float]]()
        for one in list(known.seen.values()):
            by_day.setdefault(one.day, []).append(one.value)
        own = known.own
        return {
            "references": own and own._asdict(),
            "allowed": own and dict(zip(("low", "high"), own.allowed, strict=True)),
            "shares": SHARES,
            "fewest": FEWEST,
            "days": [_day(day, by_day[day], own) for day in sorted(by_day)[-DAYS:]],
            "earlier": max(len(by_day) - DAYS, 0),
            "waiting": sum(not one.error and self.wants(one) for one in pictures),
        }


def _day(day: str, values: Sequence[float], own: Range | None) -> dict[str, Any]:
    """What is told of a day."""
    quantiles = [float(value) for value in np.quantile(values, SHARES)] if values else []
    median = quantiles[_MEDIAN] if quantiles else None
    side = None if own is None else own.side(median, len(values))
    sentence = own.sentence(day, median, side) if own and side and median is not None else None
    return {"day": day, "images": len(values), "quantiles": quantiles, "side": side, "sentence": sentence}


def day_of(one: Picture) -> str | None:
    """The day, here, on which the file of an image was last changed, as 2026-01-31; None where that is not known."""
    if not one.stamp[1]:
        return None
    try:
        return datetime.fromtimestamp(one.stamp[1] / 1e9).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return None
