"""The trainable part of NAGL: residual mining (RM), anomaly feature learning (AFL), and what scores a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomalib_nagl.core.eraser import erase
from anomalib_nagl.core.functional import (
    away_from_mask,
    gather_patches,
    l2_normalize,
    mean_similarity,
    nearest,
    sine_position,
)
from anomalib_nagl.core.fusion import Fusion, Similarities
from anomalib_nagl.core.guidance import episode_direction, guide
from anomalib_nagl.core.layers import CrossAttention, SelfAttention
from anomalib_nagl.core.variants import Variant, visible
from anomalib_nagl.core.weights import check_weights


class NaglMaps(NamedTuple):
    """What the head says of B queries with M patches, from Q proxies of width C.

    Similarities and scores are (B, M) in [0, 1]; a large score is anomalous. Proxies are (B, Q, C), and empty
    (B, 0, C) without abnormal references.
    """

    normal_similarity: Tensor
    abnormal_similarity: Tensor
    score: Tensor
    residual_proxies: Tensor
    anomaly_proxies: Tensor


class Allowed(NamedTuple):
    """Which patches of a batch's banks belong to each episode; None where all do.

    Normal ones (B, K) to compare with, and those that a residual may be taken to; marked ones (B, D) of known defects.
    ``masked`` is the similarity with which the others compete.
    """

    normal: Tensor | None = None
    usable: Tensor | None = None
    defects: Tensor | None = None
    masked: float = float("-inf")


class NaglHead(nn.Module):
    """Scores query patches against normal and abnormal reference patches (paper section 3; specification 3 to 10).

    ``variant`` is ``paper`` (the published behaviour), ``corrected``, ``extended`` (corrected; the surroundings of
    known defects count as normal, their nearest patch is part of the abnormal map), or one of them with single
    switches, such as ``paper-Q1`` (see ``Variant.parse``). Any grid will do, and any width ``dim`` that the heads
    divide. ``fusion`` is the rule that makes scores of similarities, by default that of the variant.
    """

    def __init__(
        self,
        dim: int = 384,
        num_proxies: int = 25,
        num_heads: int = 4,
        variant: str = "paper",
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"found token width {dim} and {num_heads} attention heads, expected a width that the heads divide: "
                "choose another num_heads or other layers of the backbone"
            )
        self.dim, self.num_heads = dim, num_heads
        self.variant = Variant.parse(variant)
        self.fusion = fusion or self.variant.fusion()
        # Attribute names are those of the published checkpoints.
        self.learnable_proxies = nn.Embedding(num_proxies, dim)
        self.rm_ca = CrossAttention(dim, num_heads)
        self.rm_sa = SelfAttention(dim, num_heads)
        self.afl_ca = CrossAttention(dim, num_heads)
        self.afl_sa = SelfAttention(dim, num_heads)
        if self.variant.guide:  # per attention head, what a standard deviation along the direction adds to a score
            self.guide_gain = nn.Parameter(torch.ones(num_heads))

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published code, its names with or without ``module.`` in front.

        Raises ValueError that names every tensor that is missing, of another shape, or unknown; nothing is loaded then.
        """
        given = {str(name).removeprefix("module."): tensor for name, tensor in state_dict.items()}
        given.pop("mask_downsample.weight", None)  # a constant of the published code
        wanted = self.state_dict()
        problems = [f"{name} is missing" for name in wanted if name not in given]
        problems += [f"{name} is unknown" for name in given if name not in wanted]
        problems += [
            f"{name} has shape {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ]
        if problems:
            raise ValueError(
                f"found a head that does not fit {self.learnable_proxies.num_embeddings} proxies of width {self.dim}: "
                f"{'; '.join(problems)}; expected one of these: use the backbone and num_proxies it was trained with"
            )
        check_weights(given, "a head")
        self.load_state_dict(given)

    def forward(
        self,
        query: Tensor,
        normal: Tensor,
        abnormal: Tensor,
        abnormal_mask: Tensor,
        grid: tuple[int, int],
        normal_mask: Tensor | None = None,
    ) -> NaglMaps:
        """Score episodes, each with its own references.

        Tokens are (B, M, C), (B, n, M, C) and (B, a, M, C) on ``grid`` (rows, cols); masks are 0/1 pixels (B, a, H, W)
        and (B, n, H, W), where 1 is abnormal. n = 0 takes the normal patches of the abnormal references, a = 0 gives
        the normal map alone (section 10). Raises ValueError on shapes that disagree or when no normal patch is left.
        """
        self._check_shapes(query, normal, abnormal, abnormal_mask, grid)
        known = normal.shape[1] > 0
        marked = self.variant.grid_mask(abnormal_mask, grid) if abnormal.shape[1] else None
        bank, valid = self.normal_bank(normal, abnormal, marked, grid, normal_mask)
        kinds = query.new_tensor([[known, marked is not None]])
        state = {"normal_bank": bank, "reference_kinds": kinds, "defect_bank": abnormal.flatten(1, 2)}
        allowed = Allowed(valid, self.variant.usable(valid, known), masked=self.variant.masked_similarity(known))
        if marked is None:
            state["residual_proxies"] = self.learnable_proxies.weight.new_zeros(1, *self.learnable_proxies.weight.shape)
            return self.score(query, state, grid, allowed)
        if self.variant.guide:
            state |= episode_direction(bank, valid, abnormal, marked)
        state["residual_proxies"] = self.mine(abnormal, marked, bank, allowed.usable, grid)
        return self.score(query, state, grid, allowed._replace(defects=visible(marked.flatten(1))))

    def normal_bank(
        self,
        normal: Tensor,
        abnormal: Tensor,
        marked: Tensor | None,
        grid: tuple[int, int],
        normal_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Collect the patches (B, K, C) of episodes that count as normal, and whose they are, (B, K) or None for all.

        Those of normal references come first. ``marked`` (B, a, M) are the abnormal patches. Raises ValueError if an
        episode has no normal patch.
        """
        valid = None
        if normal.shape[1]:
            bank = normal.flatten(1, 2)
            if normal_mask is not None:
                valid = self.variant.grid_mask(1 - normal_mask, grid).flatten(1) > 0
            if self.variant.context and marked is not None:
                own = torch.ones_like(bank[..., 0], dtype=torch.bool) if valid is None else valid
                bank = torch.cat([bank, abnormal.flatten(1, 2)], dim=1)
                valid = torch.cat([own, away_from_mask(marked, grid).flatten(1)], dim=1)
        elif marked is None:
            raise ValueError("found no references at all, expected at least one normal or abnormal image: add images")
        elif self.variant.pooled_batch:
            return _pool_batch(abnormal, marked), None
        else:
            bank, valid = abnormal.flatten(1, 2), marked.flatten(1) == 0
        usable = self.variant.usable(valid, normal.shape[1] > 0)
        if usable is not None and not bool(usable.any(dim=1).all()):
            raise ValueError(
                "found references without a single normal patch, expected at least one: "
                "add a normal reference, or a mask that does not cover the full image"
            )
        return bank, valid

    def mine(
        self, abnormal: Tensor, marked: Tensor, bank: Tensor, usable: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """Residual mining (section 7.1): abnormal tokens (B, a, M, C) marked at (B, a, M) -> proxies (B, Q, C)."""
        value = abnormal.flatten(1, 2)
        residual = value - gather_patches(bank, self.variant.neighbour(value, bank, usable))
        residual = erase(residual, value, bank, usable) if self.variant.eraser else residual
        key = value + self.variant.mining_positions(marked, grid, abnormal)
        proxies = self.learnable_proxies.weight.expand(abnormal.shape[0], -1, -1)
        bias = self.variant.mining_bias(marked.flatten(1), proxies.shape[1], self.num_heads)
        return self.rm_sa(self.rm_ca(proxies, key, residual, bias))

    def score(
        self, query: Tensor, state: Mapping[str, Tensor], grid: tuple[int, int], allowed: Allowed | None = None
    ) -> NaglMaps:
        """Score queries (B, M, C) by the tensors of their references (``bank.adapted.TENSORS``), first sides B or 1.

        This is all that runs for a query: the references are never seen again. Which kinds of references there are is
        read from values, so that an exported graph takes any.
        """
        allowed = allowed or Allowed()
        bank, residual = state["normal_bank"], state["residual_proxies"].expand(query.shape[0], -1, -1)
        normal_known, abnormal_known = (state["reference_kinds"][:, i, None] > 0 for i in (0, 1))
        match = nearest(l2_normalize(query), l2_normalize(bank), allowed.normal, allowed.masked)
        if not torch.compiler.is_compiling() and not bool(abnormal_known.any()):
            empty = residual[:, :0]
            return NaglMaps(match.similarity, 1 - match.similarity, 1 - match.similarity, empty, empty)
        anomaly, by_proxies, by_defects = residual, None, None
        if self.variant.proxies:
            index = match.patch
            if self.variant.dot_matching:
                index = self.variant.neighbour(query, bank, allowed.usable)
            deviation = query - gather_patches(bank, index)
            if self.variant.eraser:
                deviation = erase(deviation, query, bank, allowed.usable)
            key = deviation + sine_position(grid, self.dim).to(query)
            anomaly = self.afl_sa(self.afl_ca(residual, key, query, self._guidance(query, state)))
            by_proxies = mean_similarity(query, anomaly)
        if self.variant.defects:
            defects = l2_normalize(state["defect_bank"])
            by_defects = nearest(l2_normalize(query), defects, allowed.defects).similarity
        abnormal, score = self.fusion(query, Similarities(match.similarity, by_proxies, by_defects), state)
        normal = match.similarity
        if self.variant.overwritten_normal:
            normal = torch.where(normal_known, normal, 1 - abnormal)
            score = torch.where(normal_known, score, abnormal)
        score = torch.where(abnormal_known, score, 1 - normal)
        return NaglMaps(normal, torch.where(abnormal_known, abnormal, 1 - normal), score, residual, anomaly)

    def _guidance(self, query: Tensor, state: Mapping[str, Tensor]) -> Tensor | None:
        """What the direction of known defects adds to the attention that reads a query, (B * heads, 1, M)."""
        if not self.variant.guide:
            return None
        found = guide(query, state["defect_directions"], state["normal_mean"])
        return (self.guide_gain[None, :, None] * found[:, None]).flatten(0, 1)[:, None]

    def _check_shapes(
        self, query: Tensor, normal: Tensor, abnormal: Tensor, abnormal_mask: Tensor, grid: tuple[int, int]
    ) -> None:
        expected = (grid[0] * grid[1], self.dim)
        for name, tokens in (("query", query), ("normal", normal), ("abnormal", abnormal)):
            if tuple(tokens.shape[-2:]) != expected:
                raise ValueError(
                    f"found {name} tokens of shape {tuple(tokens.shape)}, expected (..., {expected[0]}, {expected[1]}) "
                    f"for a grid of {grid[0]}x{grid[1]} and width {self.dim}"
                )
        if abnormal_mask.shape[:2] != abnormal.shape[:2]:
            raise ValueError(
                f"found abnormal masks of shape {tuple(abnormal_mask.shape)}, expected one for each of the abnormal "
                f"references {tuple(abnormal.shape[:2])}"
            )


def _pool_batch(abnormal: Tensor, marked: Tensor) -> Tensor:
    """Normal patches of all samples in one list, cut into equal parts (Q7), as the published code does."""
    pool = abnormal[marked == 0]
    batch = abnormal.shape[0]
    if not len(pool) or len(pool) % batch:
        raise ValueError(
            f"found {len(pool)} normal patches in a batch of {batch}, expected a positive multiple (Q7): "
            "use batches of one, or variant 'corrected'"
        )
    return pool.reshape(batch, -1, pool.shape[-1])
