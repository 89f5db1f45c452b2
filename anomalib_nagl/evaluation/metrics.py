"""Image and pixel metrics of scored queries: anomalib's classes on curves that are counted once and exactly.

Each of anomalib's classes sorts all pixels, and those outside [0, 1] after a sigmoid that makes large float32 scores
equal. Here the scores are sorted once, without changing them, and each class integrates the curve it is handed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import Tensor

from anomalib_nagl.evaluation.records import GOOD, METRICS, Scored

FPR_LIMIT = 0.3
CURVE_POINTS = 200

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

    def roc(self) -> tuple[Tensor, Tensor]:
        """False and true positive rate."""
        return torch.from_numpy(self.false / self.false[-1]), torch.from_numpy(self.true / self.true[-1])

    def precision_recall(self) -> tuple[Tensor, Tensor]:
        """Precision and recall at each score of a positive, recall falling, ended by precision 1 at recall 0."""
        false, true = self.false[2:-1:2], self.true[2:-1:2]
        precision = np.append((true / (true + false))[::-1], 1.0)
        return torch.from_numpy(precision), torch.from_numpy(np.append((true / self.true[-1])[::-1], 0.0))

    def pro(self) -> tuple[Tensor, Tensor]:
        """False positive rate up to the limit and mean overlap of the regions (specification, section 14.2)."""
        fpr, overlap = self.false / self.false[-1], self.overlap / self.overlap[-1]
        kept = int(np.searchsorted(fpr, FPR_LIMIT, side="right"))
        share = (FPR_LIMIT - fpr[kept - 1]) / (fpr[kept] - fpr[kept - 1])
        last = overlap[kept - 1] + share * (overlap[kept] - overlap[kept - 1])
        return torch.from_numpy(np.append(fpr[:kept], FPR_LIMIT)), torch.from_numpy(np.append(overlap[:kept], last))


class _Handed:
    """Makes ``update`` of a metric take counts instead of scores and labels."""

    counts: Counts

    def update(self, *args: Any, **kwargs: Any) -> None:
        (self.counts,) = args


class _HandedAUROC(_Handed, AUROC):  # type: ignore[misc]  # anomalib's own bases disagree
    def _compute(self) -> tuple[Tensor, Tensor]:
        return self.counts.roc()


class _HandedAUPR(_Handed, AUPR):  # type: ignore[misc]
    def _compute(self) -> tuple[Tensor, Tensor]:
        return self.counts.precision_recall()


class _HandedAUPRO(_Handed, AUPRO):
    def _compute(self) -> tuple[Tensor, Tensor]:
        return self.counts.pro()


class _HandedF1Max(_Handed, F1Max):
    def compute(self) -> Tensor:
        self.precision_recall_curve = _Fixed(self.counts)  # type: ignore[assignment]
        return super().compute()


class _Fixed(torch.nn.Module):
    """Stands in for the curve inside ``F1Max``, which asks for thresholds only to remember the best."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        precision, recall = self.counts.precision_recall()
        return precision, recall, torch.zeros_like(recall)


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
    """Return each of ``METRICS``, NaN where it is undefined: without good, or without defective, queries or pixels.

    A query is defective by its type, a pixel by its mask. AUPRO counts regions that touch at a corner as one.
    """
    image, pixel = _counts(scored)
    values = {f"image_{key}": value for key, value in _measure(image).items()}
    values |= {f"pixel_{key}": value for key, value in _measure(pixel).items()}
    values["AUPRO"] = _value(_HandedAUPRO(["anomaly_map", "gt_mask"], fpr_limit=FPR_LIMIT), pixel)
    return {name: values[name] for name in METRICS}


def image_metrics(scores: Tensor, defective: NDArray[np.bool_]) -> dict[str, float]:
    """Those of ``IMAGE_METRICS`` alone, of scores (P,) and which queries are defective (P,)."""
    return {f"image_{key}": value for key, value in _measure(count(scores, defective.astype(np.int32))).items()}


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
    touching[1] = True  # eight neighbours within a picture, none across pictures
    regions, _ = label(scored.masks.cpu().numpy() != 0, structure=touching)
    return count(scored.scores, labels), count(scored.maps, regions)


def _measure(counts: Counts) -> dict[str, float]:
    fields = ["pred_score", "gt_label"]
    metrics = {"AUROC": _HandedAUROC(fields), "AP": _HandedAUPR(fields), "F1max": _HandedF1Max(fields)}
    return {name: _value(metric, counts) for name, metric in metrics.items()}


def _value(metric: Any, counts: Counts) -> float:
    if counts.undefined:
        return float("nan")
    metric.update(counts)
    return float(metric.compute())


def _interleave(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.stack([first, second], axis=1).ravel()


def _thin(points: Floats) -> Floats:
    """Keep points (k, 2) of a rising curve about equally far apart along it, the ends among them."""
    if len(points) <= CURVE_POINTS:
        return points
    length = np.append(0.0, np.abs(np.diff(points, axis=0)).sum(axis=1).cumsum())
    kept = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS), side="right") - 1
    return points[np.unique(np.append(0, kept))]
