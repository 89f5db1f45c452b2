"""Thresholds and the scale that they lie on, from a handful of references: each is scored as if it were new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.held_out import Detector, State, held_out_scores
from anomalib_nagl.bank.interest import inside_pixels
from anomalib_nagl.bank.maps import image_score
from anomalib_nagl.bank.scale import Scale

Floats = NDArray[np.float32]
PIXELS = 0.01  # share of the pixels of normal references that is let through
# Between the threshold and what is typical on a side of it, where references tell no larger distance: share of the
# threshold, and absolute.
LEAST_SHARE, LEAST_WIDTH = 0.1, 1e-3
POWER = -3  # from -2 to -6 the thresholds are as good
WRONG = 0.2  # share of references on the wrong side of the threshold, from which on they do not tell where it lies


class Range(NamedTuple):
    """Smallest and largest raw score that references had when they were not known."""

    raw_low: float
    raw_high: float


class Calibration(NamedTuple):
    """What references say of scores: the scales of images and pixels, and the scores that they had.

    With ``overlap`` so many of them scored on the wrong side of the threshold when they were not known that new images
    will too: on this part they do not tell for certain where it lies. It takes two of each kind to find that out.
    """

    image: Scale
    pixel: Scale
    images_seen: Range
    pixels_seen: Range
    overlap: bool

    def facts(self) -> dict[str, Any]:
        """What is kept beside the scales, as JSON."""
        return {
            "raw_images_seen": list(self.images_seen),
            "raw_pixels_seen": list(self.pixels_seen),
            "overlap": self.overlap,
        }


def calibrate(patches: ReferencePatches, state: State, detector: Detector) -> Calibration:
    """Scales for images and pixels from the references alone; see ``held_out_scores`` for the arguments.

    Images: see ``threshold``. Pixels: what 1 % of the anomaly map of held-out normal references exceeds. Both count
    within the region of interest alone.
    """
    held_out = held_out_scores(patches, state, detector)
    cells = min(int(patches.inside.sum()), detector.cells or patches.cells)
    normal, abnormal = (image_score(scores, cells=cells) for scores in (held_out.normal, held_out.abnormal))
    middle = threshold(normal, abnormal)
    whole = detector.maps(held_out.normal)
    maps = whole[:, inside_pixels(patches.region, (whole.shape[1], whole.shape[2]))].reshape(-1)
    marked = held_out.abnormal[held_out.marked]
    pixels = np.concatenate([maps, held_out.abnormal.reshape(-1)])
    return Calibration(
        scale(middle, typical(normal), _mean(abnormal)),
        scale(_high(maps), float(maps.mean(dtype=np.float64)), _mean(marked)),
        _range(np.concatenate([normal, abnormal])),
        _range(pixels),
        min(len(patches.normal), len(patches.abnormal)) > 1 and misjudged(middle, normal, abnormal) >= WRONG,
    )


def threshold(normal: Floats, abnormal: Floats) -> float:
    """Threshold between held-out normal scores (n,) and abnormal ones (a,), which may be none.

    Half-way between ``typical`` scores of both. Without abnormal ones the largest normal score.
    """
    if len(abnormal):
        return (typical(normal) + float(abnormal.mean(dtype=np.float64))) / 2
    return float(normal.max())


def typical(normal: Floats) -> float:
    """Power mean of held-out normal scores (n,), with exponent ``POWER``: the smaller ones count more.

    Where the references are few, what a score is compared with may be so poor that everything deviates from it: such a
    score says less. The smallest alone is too low, the geometric mean too high with weak features.
    """
    return float((np.maximum(normal, LEAST_WIDTH).astype(np.float64) ** POWER).mean() ** (1 / POWER))


def misjudged(middle: float, normal: Floats, abnormal: Floats) -> float:
    """Share of held-out scores (n,) and (a,) on the wrong side of a threshold, the mean of both kinds."""
    return (float((normal > middle).mean()) + float((abnormal <= middle).mean())) / 2


def scale(middle: float, good: float, defective: float | None) -> Scale:
    """The scale of a threshold and of what is typical on both sides of it.

    Where one of both does not lie on its side of the threshold, or hardly, it is as far away as the other, and where
    neither does, a share of the threshold: a scale made of their difference would be a step.
    """
    below, above = middle - good, 0.0 if defective is None else defective - middle
    least = max(LEAST_SHARE * abs(middle), LEAST_WIDTH)
    below, above = (one if one >= least else max(other, least) for one, other in ((below, above), (above, below)))
    return Scale(middle - below, middle, middle + above)


def doubt(kind: str, threshold: float, scale: Scale, facts: Mapping[str, Any]) -> str | None:
    """A sentence on a threshold that none of the references' scores of a ``kind`` reached, or all did.

    ``kind`` is ``images`` or ``pixels``, ``scale`` its scale, ``facts`` those of the calibration. None where there is
    nothing to say.
    """
    seen = facts.get(f"raw_{kind}_seen")
    if not seen or not scale.known:
        return None
    low, high = (float(end) for end in scale.shown(seen))
    if low <= threshold <= high:
        return None
    said = (
        "every one of them would be called defective" if threshold < low else "none of them would be called defective"
    )
    return (
        f"found threshold {threshold:g} for {kind}, expected one within the scores that references had when they were "
        f"not known, {low:.3f} to {high:.3f}: {said}"
    )


def _high(values: Floats) -> float:
    """What the highest 1 % of all pixels (P,) exceed."""
    place = max(int((1 - PIXELS) * len(values)), 1) - 1
    return float(np.partition(values, place)[place])


def _mean(values: Floats) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _range(values: Floats) -> Range:
    return Range(float(values.min()), float(values.max()))
