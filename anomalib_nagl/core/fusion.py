"""From similarities to patch scores: a rule that is handed to the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Similarities(NamedTuple):
    """How alike the M patches of B queries and their references are, (B, M) in [0, 1].

    To the nearest normal patch, the anomaly proxies (mean), the nearest patch of a known defect; None where a variant
    does not compare.
    """

    normal: Tensor
    proxies: Tensor | None
    defects: Tensor | None


class Fused(NamedTuple):
    """Abnormal similarity and score (B, M) in [0, 1]; a large score is anomalous."""

    abnormal: Tensor
    score: Tensor


class Fusion(Protocol):
    """A rule that scores patches. It runs once for each query, in torch and in exported graphs."""

    def __call__(self, query: Tensor, found: Similarities, state: Mapping[str, Tensor]) -> Fused:
        """Score the patches (B, M, C) of queries with these similarities.

        ``state`` has every tensor of ``bank.adapted.TENSORS``, each with a first side of B or 1.
        """


@dataclass(frozen=True)
class WeightedFusion:
    """Weighted mean of both abnormal similarities, then with 1 - normal similarity, whose weight is 1 (section 8).

    The published rule is that of the proxies alone, with weight 1. The weights were chosen on source domains, see the
    ablation in the results.
    """

    defect_weight: float = 0.5
    proxy_weight: float = 0.25

    def __call__(self, query: Tensor, found: Similarities, state: Mapping[str, Tensor]) -> Fused:
        """Fuse the similarities that are there; ValueError if none is."""
        del query, state
        weighted = ((self.proxy_weight, found.proxies), (self.defect_weight, found.defects))
        parts = [(weight, similarity) for weight, similarity in weighted if similarity is not None]
        if not parts:
            raise ValueError("found no abnormal similarity, expected that to proxies, defects or both")
        total = sum(weight for weight, _ in parts)
        abnormal = torch.stack([weight * similarity for weight, similarity in parts]).sum(dim=0) / total
        return Fused(abnormal, (total * abnormal + 1 - found.normal) / (total + 1))


PUBLISHED = WeightedFusion(defect_weight=0.0, proxy_weight=1.0)
