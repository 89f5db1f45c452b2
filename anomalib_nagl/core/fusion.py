"""From similarities to patch scores: a rule that is handed to the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anomalib_nagl.core.guidance import along, contrast


class Similarities(NamedTuple):
    """How alike the M patches of B queries and their references are, (B, M) in [0, 1].

    To the nearest normal patch, the anomaly proxies (mean), the nearest patch of a known defect; None where a variant
    does not compare.
    """

    normal: Tensor
    proxies: Tensor | None
    defects: Tensor | None


class Fused(NamedTuple):
    """Abnormal similarity (B, M) in [0, 1] and score (B, M), not below 0; a large score is anomalous."""

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


@dataclass(frozen=True)
class DiscriminantFusion:
    """A score, and what a patch has beyond it in the direction of known defects (``bank.discriminant``).

    The score is made by another rule or, without one, is the deviation 1 - normal similarity, with the similarity to
    the nearest known defect as far as that says something on this part. Of several directions the one counts along
    which a patch lies farthest; nothing is taken off a patch that lies on the other side. With ``contrast`` the other
    rule is what a head is trained by, and the score is that without one, with the proxies' similarity as far as it is
    above the mean of its image: what it is elsewhere differs from part to part, and would rank images. The sum has no
    upper end. A head is trained without it: episodes have no spread to weigh a direction by.
    """

    rule: Fusion | None = None
    contrast: float = 0.0

    def __call__(self, query: Tensor, found: Similarities, state: Mapping[str, Tensor]) -> Fused:
        """Fuse; the abnormal similarity of the discriminant alone is its part of the score, as far as 1."""
        usual = None if self.rule is None else self.rule(query, found, state)
        if "defect_weight" not in state and usual is not None:
            return usual
        beyond = along(query, state["defect_directions"], state["normal_mean"]).clamp(min=0)
        if usual is not None and not self.contrast:
            return Fused(usual.abnormal, usual.score + beyond)
        known = beyond
        if found.defects is not None:
            known = known + state["defect_weight"] * found.defects
        if self.contrast and found.proxies is not None:
            known = known + self.contrast * contrast(found.proxies)
        return Fused(known.clamp(max=1) if usual is None else usual.abnormal, 1 - found.normal + known)


PUBLISHED = WeightedFusion(defect_weight=0.0, proxy_weight=1.0)
