"""Image and pixel metrics of scored queries, from curves that are counted once and exactly.

The definitions are those of anomalib's classes, each of which would sort all pixels again, and those outside [0, 1]
after a sigmoid that makes large float32 scores equal. Here the scores are sorted once, without changing them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import auc
from torch import Tensor

from anomalib_nagl.evaluation.records import GOOD, IMAGE_METRICS, PIXEL_METRICS, Scored

FPR_LIMIT = 0.3
CURVE_POINTS = 200
EPSILON = 1e-10  # of the published F1, whose precision and recall may both be 0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What passes each threshold, from strict to lax; equal scores pass together.

    ``false`` and ``true`` count negatives and positives with at least the score, ``overlap`` sums over regions the
    share of their pixels. Thresholds that no positive has lie on straight lines between those kept: leaving them out
    changes no area and no maximum. Two entries per threshold kept: without and with the pixels of exactly that score.
    """

    false: Ints
    true: Ints
    overlap: Floats

    @property
    def undefined(self) -> bool:
        """Whether there are no positives or no negatives."""
        return not (self.true[-1] and self.false[-1])

    def roc(self) -> tuple[Floats, Floats]:
        """False and true positive rate."""
        return self.false / self.false[-1], self.true / self.true[-1]

    def precision_recall(self) -> tuple[Floats, Floats]:
        """Precision and recall at each score of a positive, recall falling, ended by precision 1 at recall 0."""
        false, true = self.false[2:-1:2], self.true[2:-1:2]
        precision = np.append((true / (true + false))[::-1], 1.0)
        return precision, np.append((true / self.true[-1])[::-1], 0.0)

    def pro(self) -> tuple[Floats, Floats]:
        """False positive rate up to the limit and mean overlap of the regions."""
        fpr, overlap = self.false / self.false[-1], self.overlap / self.overlap[-1]
        kept = int(np.searchsorted(fpr, FPR_LIMIT, side="right"))
        share = (FPR_LIMIT - fpr[kept - 1]) / (fpr[kept] - fpr[kept - 1])
        last = overlap[kept - 1] + share * (overlap[kept] - overlap[kept - 1])
        return np.append(fpr[:kept], FPR_LIMIT), np.append(overlap[:kept], last)


def auroc(counts: Counts) -> float:
    """Area under the ROC curve."""
    return float(auc(*counts.roc()))


def average_precision(counts: Counts) -> float:
    """Mean precision, weighted by the recall that is gained at each threshold."""
    precision, recall = counts.precision_recall()
    return float(-(np.diff(recall) * precision[:-1]).sum())


def f1_max(counts: Counts) -> float:
    """F1 at the best threshold."""
    precision, recall = counts.precision_recall()
    return float((2 * precision * recall / (precision + recall + EPSILON)).max())


def aupro(counts: Counts) -> float:
    """Area under the PRO curve up to the limit, as a share of the largest there can be."""
    return float(auc(*counts.pro())) / FPR_LIMIT


_FUNCTIONS = (auroc, average_precision, f1_max)


def count(scores: Tensor, regions: NDArray[np.int32]) -> Counts:
    """Count what passes each threshold; ``regions`` numbers the region of each score from 1, with 0 for negatives.

    Both of any, but the same, number of entries. Raises ValueError for scores that are not numbers.
    """
    values, places = scores.detach().cpu().flatten().numpy(), regions.ravel()
    if np.isnan(values).any():
        raise ValueError(f"scores: found {int(np.isnan(values).sum())} of {values.size} that are not numbers")
    positive = places > 0
    inside, places = values[positive], places[positive]
    order = np.argsort(-inside)
    inside, places = inside[order], places[order]
    size = np.bincount(places, minlength=1)
    ends = np.flatnonzero(np.append(inside[1:] != inside[:-1], True)) if inside.size else np.empty(0, np.int64)
    ascending = np.sort(values)
    above = values.size - np.searchsorted(ascending, inside[ends], side="right")
    at_least = values.size - np.searchsorted(ascending, inside[ends], side="left")
    true, overlap = np.append(0, ends + 1), np.append(0.0, np.cumsum(1 / size[places])[ends])
    false = _interleave(above - true[:-1], at_least - true[1:])
    return Counts(
        np.concatenate([[0], false, [values.size - inside.size]]),
        np.concatenate([[0], _interleave(true[:-1], true[1:]), [inside.size]]),
        np.concatenate([[0.0], _interleave(overlap[:-1], overlap[1:]), [np.count_nonzero(size[1:])]]),
    )


def measure(scored: Scored) -> dict[str, float]:
    """Return each of ``METRICS``, NaN where it is undefined: without good, or without abnormal, queries or pixels.

    A query is abnormal by its type, a pixel by its mask. AUPRO counts regions that touch at a corner as one.
    """
    image, pixel = _counts(scored)
    values = {name: _value(function, image) for name, function in zip(IMAGE_METRICS, _FUNCTIONS, strict=True)}
    pairs = zip(PIXEL_METRICS, (*_FUNCTIONS, aupro), strict=True)
    return values | {name: _value(function, pixel) for name, function in pairs}


def image_metrics(scores: Tensor, abnormal: NDArray[np.bool_]) -> dict[str, float]:
    """Those of ``IMAGE_METRICS`` alone, of scores (P,) and which queries are abnormal (P,)."""
    counts = count(scores, abnormal.astype(np.int32))
    return {name: _value(function, counts) for name, function in zip(IMAGE_METRICS, _FUNCTIONS, strict=True)}


def curves(scored: Scored) -> dict[str, Floats]:
    """Return ``roc_fpr, roc_tpr`` of images, ``pixel_fpr, pixel_tpr``, ``pro_fpr, pro``: at most 200 points each.

    The PRO curve ends at the false positive rate 0.3. A curve that is undefined is empty.
    """
    image, pixel = _counts(scored)
    names = (("roc_fpr", "roc_tpr"), ("pixel_fpr", "pixel_tpr"), ("pro_fpr", "pro"))
    result: dict[str, Floats] = {}
    for pair, counts, curve in zip(names, (image, pixel, pixel), (Counts.roc, Counts.roc, Counts.pro), strict=True):
        points = np.empty((0, 2)) if counts.undefined else _thin(np.stack(curve(counts), axis=1))
        result |= dict(zip(pair, points.T, strict=True))
    return result


def _counts(scored: Scored) -> tuple[Counts, Counts]:
    labels = np.array([kind != GOOD for kind in scored.types], dtype=np.int32)
    touching = np.zeros((3, 3, 3), dtype=bool)
    touching[1] = True  # eight neighbours within an image, none across images
    regions, _ = label(scored.masks.cpu().numpy() != 0, structure=touching)
    return count(scored.scores, labels), count(scored.maps, regions)


def _value(function: Callable[[Counts], float], counts: Counts) -> float:
    return math.nan if counts.undefined else function(counts)


def _interleave(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.stack([first, second], axis=1).ravel()


def _thin(points: Floats) -> Floats:
    """Keep points (k, 2) of a rising curve about equally far apart along it, the ends among them."""
    if len(points) <= CURVE_POINTS:
        return points
    length = np.append(0.0, np.abs(np.diff(points, axis=0)).sum(axis=1).cumsum())
    kept = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS), side="right") - 1
    return points[np.unique(np.append(0, kept))]
