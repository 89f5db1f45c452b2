"""Where the published code, a sound implementation and this package part: a named switch for each difference.

``Variant`` is also the only place that acts on the switches of the forward pass: the head asks it for neighbours,
positions, masks and fusion.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anomalib_nagl.core.functional import l2_normalize, mask_to_grid, nearest, sine_position
from anomalib_nagl.core.fusion import PUBLISHED, DiscriminantFusion, Fusion, WeightedFusion

_SWITCHES = {
    "Q1": "mixed_masks",
    "Q2": "interleaved_positions",
    "Q3": "normal_positions",
    "Q4": "dot_matching",
    "Q5": "shifted_grid",
    "Q6": "soft_mask",
    "Q7": "pooled_batch",
    "Q8": "overwritten_normal",
    "Q11": "zero_masked",
    "Q12": "similarity_logits",
    "Q13": "top_twenty",
    "Q30": "decay_all",
    "context": "context",
    "defects": "defects",
    "discriminant": "discriminant",
    "proxies": "proxies",
    "contrast": "contrast",
    "guide": "guide",
    "eraser": "eraser",
}
# Of each base, what it has beyond the corrected code: neither quirks of the published one nor corrections of them.
_BASES = {
    "paper": {"proxies"},
    "corrected": {"proxies"},
    "extended": {"proxies", "context", "defects"},
    "discriminant": {"context", "defects", "discriminant"},
    "guided": {"proxies", "context", "defects", "discriminant", "contrast", "guide"},
    "erased": {"proxies", "context", "defects", "discriminant", "contrast", "eraser"},
}
_OURS = {"context", "defects", "discriminant", "proxies", "contrast", "guide", "eraser"}
_OF_PROXIES = ("contrast", "guide", "eraser")
PROXY_CONTRAST = 0.25  # weight of the proxies beside the head-free rule, as in the default fusion
HEAD_FREE = "discriminant"  # what runs where no head was trained


@dataclass(frozen=True)
class Variant:
    """Switches of behaviour: ``paper`` has every quirk (specification, 15), ``corrected`` none.

    ``extended`` is ``corrected`` with the surroundings of known defects and their nearest patch. These three have the
    learned proxies. ``discriminant`` has none and needs no head: the direction of known defects is in their place.
    ``guided`` and ``erased`` add proxies to it that read a query by that direction, or residuals without what normal
    patches vary by.
    """

    mixed_masks: bool  # Q1: residual mining reads the masks of other samples of the batch
    interleaved_positions: bool  # Q2: with several abnormal references, positions are in another order than the keys
    normal_positions: bool  # Q3: positions in residual mining count normal patches only
    dot_matching: bool  # Q4: residual neighbour by dot product instead of cosine
    shifted_grid: bool  # Q5: mask windows one pixel off the patches
    soft_mask: bool  # Q6: masked keys get -1e9 instead of being excluded
    pooled_batch: bool  # Q7: without normal references, the normal patches of a whole batch are pooled and re-cut
    overwritten_normal: bool  # Q8: without normal references, the normal map is 1 - abnormal map
    zero_masked: bool  # Q11: masked normal patches compete with similarity 0
    similarity_logits: bool  # Q12: similarities in [0, 1] are used as logits
    top_twenty: bool  # Q13: the training score averages 20 patches, not the fraction used at test
    decay_all: bool  # Q30: weight decay on biases, norms and proxies too
    context: bool  # patches of abnormal references that lie clear of the mask count as normal ones
    defects: bool  # the nearest patch of a known defect is part of the abnormal map
    discriminant: bool  # a patch scores more the farther it lies in the direction of known defects
    proxies: bool  # the learned proxies are part of the abnormal map; without them nothing is trained
    contrast: bool  # the proxies count beside the head-free rule, as far as they stand out of their image
    guide: bool  # proxies look first at patches of a query that lie in the direction of known defects
    eraser: bool  # residuals are read without their part in the local subspace of normal patches

    @classmethod
    def parse(cls, variant: str) -> Variant:
        """Read a base, optionally with single switches: ``extended``, ``paper-Q1``, ``corrected+Q4+context``.

        Raises ValueError for anything else, with the names that exist.
        """
        base, *changes = re.split(r"(?=[+-])", variant.replace(" ", ""))
        unknown = [c for c in changes if c[1:] not in _SWITCHES]
        if base not in _BASES or unknown:
            raise ValueError(
                f"found variant {variant!r}, expected one of {', '.join(_BASES)}, optionally followed by + or - and "
                f"one of {', '.join(_SWITCHES)}"
            )
        quirks = {name: base == "paper" for name in _SWITCHES.values() if name not in _OURS}
        switches = cls(**quirks, **{name: name in _BASES[base] for name in _OURS})
        changed = replace(switches, **{_SWITCHES[c[1:]]: c[0] == "+" for c in changes})
        if changed.context and changed.zero_masked:
            raise ValueError(
                f"found variant {variant!r}, expected no context with Q11, by which masked patches compete: add -Q11"
            )
        if not (changed.proxies or changed.defects or changed.discriminant):
            raise ValueError(
                f"found variant {variant!r}, expected proxies, defects or discriminant, by which known defects count: "
                "add +discriminant"
            )
        alone = [name for name in _OF_PROXIES if getattr(changed, name)]
        if alone and not (changed.proxies and changed.discriminant):
            raise ValueError(
                f"found variant {variant!r}, expected proxies and discriminant with {' and '.join(alone)}: add "
                "+proxies+discriminant"
            )
        return changed

    @property
    def shared_mining(self) -> bool:
        """Whether positions of residual mining are those of the grid alone, whatever else is marked (Q2, Q3)."""
        return not (self.interleaved_positions or self.normal_positions)

    def fusion(self) -> Fusion:
        """The rule that scores patches: the published one, or ours with what is switched on."""
        similarities = WeightedFusion() if self.defects else PUBLISHED
        if not self.discriminant:
            return similarities
        return DiscriminantFusion(similarities if self.proxies else None, PROXY_CONTRAST if self.contrast else 0.0)

    def grid_mask(self, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mark the patches that hold an abnormal pixel: masks (B, k, H, W) -> (B, k, M) (Q5)."""
        return mask_to_grid(mask, grid, self.shifted_grid)

    def neighbour(self, tokens: Tensor, bank: Tensor, allowed: Tensor | None) -> Tensor:
        """Place (B, L) of the bank patch that a residual is taken to (section 5, Q4)."""
        if self.dot_matching:
            return nearest(tokens, bank, allowed).patch
        return nearest(l2_normalize(tokens), l2_normalize(bank), allowed).patch

    def usable(self, allowed: Tensor | None, normal_known: bool) -> Tensor | None:
        """Patches that a residual may be taken to: the published code ignores masks of normal references (Q11)."""
        return None if self.zero_masked and normal_known else allowed

    def masked_similarity(self, normal_known: bool) -> float:
        """With what similarity masked normal patches compete (Q11)."""
        return 0.0 if self.zero_masked and normal_known else -math.inf

    def mining_positions(self, marked: Tensor, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Positions (B, a * M, C) of the keys of residual mining, for marked patches (B, a, M) (section 6, Q2, Q3).

        ``like`` are the abnormal tokens (B, a, M, C).
        """
        position = sine_position(grid, like.shape[-1], marked != 0 if self.normal_positions else None).to(like)
        position = position.expand_as(like)
        return (position.transpose(1, 2) if self.interleaved_positions else position).flatten(1, 2)

    def mining_bias(self, marked: Tensor, proxies: int, heads: int) -> Tensor:
        """Attention bias (B * heads, Q, L) that lets residual mining see the marked patches (B, L) only (Q1, Q6)."""
        samples = torch.arange(marked.shape[0] * heads, device=marked.device)
        samples = samples % marked.shape[0] if self.mixed_masks else samples // heads
        if self.soft_mask:
            bias = -1e9 * (1 - marked)
        else:
            bias = torch.zeros_like(marked).masked_fill(~visible(marked), -math.inf)
        return bias[samples][:, None].expand(-1, proxies, -1)


def resolve_views(views: str, variant: str) -> str:
    """The views of references that "auto" stands for: none in the published code, else what measured best."""
    if views != "auto":
        return views
    return "none" if variant.strip().startswith(("paper", "corrected")) else "turns"


def visible(marked: Tensor) -> Tensor:
    """Patches (B, L) that count as the defect. Nothing marked: all, as an empty softmax would be NaN."""
    return (marked > 0) | ~(marked > 0).any(dim=1, keepdim=True)
