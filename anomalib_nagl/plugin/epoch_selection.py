"""Validation on episodes after every epoch, and which epoch's head is kept (specification, sections 13.3 and 13.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from anomalib_nagl.core.functional import binned_auroc

RULES = ("best", "last", "paper")
FIRST_EPOCH = 5  # the published code keeps none before


class ScoredEpisodes(NamedTuple):
    """Image scores (B,), anomaly maps (B, H, W), 0/1 masks (B, H, W) and labels (B,) of queries."""

    score: Tensor
    anomaly_map: Tensor
    mask: Tensor
    label: Tensor


class ValidationScores(NamedTuple):
    """Image and pixel AUROC, each the mean over categories."""

    image: float
    pixel: float

    @property
    def total(self) -> float:
        """What the published code compares epochs by."""
        return self.image + self.pixel


def validation_scores(categories: Iterable[Iterable[ScoredEpisodes]], published: bool) -> ValidationScores:
    """AUROC of the episodes of every category; exact, or ``published`` as in section 13.4 (Q18).

    A category whose queries are all of one kind has none: it is left out, or makes the published means NaN.
    """
    found = [_category_scores(batches, published) for batches in categories]
    scores = torch.tensor(found, dtype=torch.float64)
    means = scores.mean(dim=0) if published else scores.nanmean(dim=0)
    return ValidationScores(*means.tolist())


def _category_scores(batches: Iterable[ScoredEpisodes], published: bool) -> tuple[float, float]:
    joined = ScoredEpisodes(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    if len(joined.label.unique()) < 2:
        return float("nan"), float("nan")
    auroc = binned_auroc if published else binary_auroc
    image = auroc(joined.score, joined.label.int())
    return float(image), float(auroc(joined.anomaly_map.flatten(), joined.mask.flatten().int()))


class KeptHead:
    """The head of the epoch that a rule prefers, with its scores.

    ``best`` keeps the largest sum of both AUROC, the first of equals; ``paper`` does so from the sixth epoch on and
    keeps the last of equals; ``last`` keeps none, which means the last. Raises ValueError for another rule.
    """

    def __init__(self, rule: str) -> None:
        if rule not in RULES:
            raise ValueError(f"found selection={rule!r}, expected one of {', '.join(RULES)}")
        self.rule = rule
        self.weights: dict[str, Tensor] | None
        self.reset()

    def reset(self) -> None:
        """Forget the head that is kept: another training begins."""
        self.epoch, self.scores, self.weights = -1, ValidationScores(float("-inf"), float("-inf")), None

    def consider(self, epoch: int, scores: ValidationScores, head: nn.Module) -> None:
        """Keep a copy of the head if it is better than the one kept."""
        published = self.rule == "paper"
        better = scores.total >= self.scores.total if published else scores.total > self.scores.total
        if self.rule == "last" or not better or (published and epoch < FIRST_EPOCH):
            return
        self.epoch, self.scores = epoch, scores
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in head.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, from which ``restore`` goes on."""
        return {"epoch": self.epoch, "scores": list(self.scores), "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.epoch, self.weights = int(state["epoch"]), state["weights"]
        self.scores = ValidationScores(*state["scores"])
