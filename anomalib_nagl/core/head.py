"""The trainable part of NAGL: residual mining (RM), anomaly feature learning (AFL) and the fusion of both maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomalib_nagl.core.functional import clear_of, mask_to_grid, mean_similarity, nearest, sine_position, take, unit
from anomalib_nagl.core.layers import CrossAttention, SelfAttention
from anomalib_nagl.core.variants import Quirks

# Shares of the abnormal map next to a deviation from normal of 1, where the published code has 1 for the proxies alone.
# Chosen on source domains: see the ablation in examples/benchmarks.
DEFECT_WEIGHT, PROXY_WEIGHT = 0.5, 0.25


class Learned(NamedTuple):
    """What queries need of one set of references.

    The normal bank (K, C), first the patches of normal references; residual proxies (Q, C) and patches of known defects
    (D, C), both empty without abnormal references.
    """

    bank: Tensor
    proxies: Tensor
    defects: Tensor


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


class NaglHead(nn.Module):
    """Scores query patches against normal and abnormal reference patches (paper section 3; specification 3 to 10).

    ``variant`` is ``paper`` (the published behaviour), ``corrected``, ``extended`` (corrected; the surroundings of
    known defects count as normal, their nearest patch is part of the abnormal map), or one of them with single
    switches, such as ``paper-Q1`` (see ``Quirks.parse``). Any grid will do, and any width ``dim`` that the heads
    divide.
    """

    def __init__(self, dim: int = 384, num_proxies: int = 25, num_heads: int = 4, variant: str = "paper") -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"found token width {dim} and {num_heads} attention heads, expected a width that the heads divide: "
                "choose another num_heads or other layers of the backbone"
            )
        self.dim, self.num_heads = dim, num_heads
        self.quirks = Quirks.parse(variant)
        # Attribute names are those of the published checkpoints.
        self.learnable_proxies = nn.Embedding(num_proxies, dim)
        self.rm_ca = CrossAttention(dim, num_heads)
        self.rm_sa = SelfAttention(dim, num_heads)
        self.afl_ca = CrossAttention(dim, num_heads)
        self.afl_sa = SelfAttention(dim, num_heads)

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published code, its names with or without ``module.`` in front.

        Raises ValueError that names every tensor that is missing, of another shape, or unknown; nothing is loaded then.
        """
        given = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
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
                f"{'; '.join(problems)}. Use the backbone and num_proxies that it was trained with"
            )
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
        marked = mask_to_grid(abnormal_mask, grid, self.quirks.shifted_grid) if abnormal.shape[1] else None
        bank, valid = self.normal_bank(normal, abnormal, marked, grid, normal_mask)
        known = normal.shape[1] > 0
        if marked is None:
            nothing = query.new_empty(query.shape[0], 0, self.dim)
            return self.detect(query, bank, nothing, grid, None, valid, None, known)
        proxies = self.mine(abnormal, marked, bank, self._usable(valid, known), grid)
        visible = _visible(marked.flatten(1))
        return self.detect(query, bank, proxies, grid, abnormal.flatten(1, 2), valid, visible, known)

    def learn(
        self, normal: Tensor, abnormal: Tensor, marked: Tensor, located: Tensor, grid: tuple[int, int]
    ) -> Learned:
        """Take in one set of references: tokens (n, M, C) and (a, M, C), marked patches (a, M).

        Pictures that are not ``located`` (a,) have marks that were guessed, or everywhere: residual mining reads them,
        but they are neither known defects nor known surroundings. Raises ValueError when no normal patch is left.
        """
        known = marked[None] if len(abnormal) else None
        bank, valid = self.normal_bank(normal[None], abnormal[None], known, grid, located=located[None])
        usable = bank[0] if valid is None else bank[0][valid[0]]
        if known is None:
            nothing = bank.new_empty(0, self.dim)
            return Learned(usable, nothing, nothing)
        proxies = self.mine(abnormal[None], known, bank, valid, grid)
        defects = abnormal[(marked > 0) & located[:, None]]
        # Nothing is known: a zero patch is as like any patch as any other, and takes no part in the ranking.
        return Learned(usable, proxies[0], defects if len(defects) else defects.new_zeros(1, self.dim))

    def normal_bank(
        self,
        normal: Tensor,
        abnormal: Tensor,
        marked: Tensor | None,
        grid: tuple[int, int],
        normal_mask: Tensor | None = None,
        located: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Collect the patches (B, K, C) that count as normal, and which of them may be used, (B, K) or None for all.

        Those of normal references come first. ``marked`` (B, a, M) are the abnormal patches. Raises ValueError if an
        episode has no normal patch.
        """
        valid = None
        if normal.shape[1]:
            bank = normal.flatten(1, 2)
            if normal_mask is not None:
                valid = mask_to_grid(1 - normal_mask, grid, self.quirks.shifted_grid).flatten(1) > 0
            if self.quirks.context and marked is not None:
                own = torch.ones_like(bank[..., 0], dtype=torch.bool) if valid is None else valid
                bank = torch.cat([bank, abnormal.flatten(1, 2)], dim=1)
                clear = clear_of(marked, grid)
                clear = clear if located is None else clear & located[..., None]
                valid = torch.cat([own, clear.flatten(1)], dim=1)
        elif marked is None:
            raise ValueError("found no references at all, expected at least one normal or abnormal image: add pictures")
        elif self.quirks.pooled_batch:
            return _pool_batch(abnormal, marked), None
        else:
            bank, valid = abnormal.flatten(1, 2), marked.flatten(1) == 0
        usable = self._usable(valid, normal.shape[1] > 0)
        if usable is not None and not bool(usable.any(dim=1).all()):
            raise ValueError(
                "found references without a single normal patch, expected at least one: "
                "add a normal reference, or a mask that does not cover the whole image"
            )
        return bank, valid

    def mine(
        self, abnormal: Tensor, marked: Tensor, bank: Tensor, valid: Tensor | None, grid: tuple[int, int]
    ) -> Tensor:
        """Residual mining (section 7.1): abnormal tokens (B, a, M, C) marked at (B, a, M) -> proxies (B, Q, C)."""
        value = abnormal.flatten(1, 2)
        match = nearest(value, bank, valid) if self.quirks.dot_matching else nearest(unit(value), unit(bank), valid)
        residual = value - take(bank, match.patch)
        position = sine_position(grid, self.dim, marked != 0 if self.quirks.normal_positions else None).to(abnormal)
        position = position.expand_as(abnormal)
        if self.quirks.interleaved_positions:
            position = position.transpose(1, 2)
        key = value + position.flatten(1, 2)
        proxies = self.learnable_proxies.weight.expand(abnormal.shape[0], -1, -1)
        return self.rm_sa(self.rm_ca(proxies, key, residual, self._mining_bias(marked.flatten(1))))

    def detect(
        self,
        query: Tensor,
        bank: Tensor,
        residual_proxies: Tensor,
        grid: tuple[int, int],
        defects: Tensor | None = None,
        valid: Tensor | None = None,
        valid_defects: Tensor | None = None,
        normal_known: bool = True,
    ) -> NaglMaps:
        """Score queries (B, M, C) against a bank (B or 1, K, C) and residual proxies (B or 1, Q, C) of its references.

        ``defects`` (B or 1, D, C) are patches of known defects. This is all that runs per query: the references are
        never seen again. ``normal_known`` is false when the bank was cut out of abnormal references.
        """
        masked = 0.0 if self.quirks.zero_masked and normal_known else -math.inf
        match = nearest(unit(query), unit(bank), valid, masked)
        normal = match.similarity
        if not residual_proxies.shape[1]:
            empty = residual_proxies.expand(query.shape[0], -1, -1)
            return NaglMaps(normal, 1 - normal, 1 - normal, empty, empty)
        proxies = anomaly = residual_proxies.expand(query.shape[0], -1, -1)
        maps = []
        if self.quirks.proxies:
            index = match.patch
            if self.quirks.dot_matching:
                index = nearest(query, bank, self._usable(valid, normal_known)).patch
            key = query - take(bank, index) + sine_position(grid, self.dim).to(query)
            anomaly = self.afl_sa(self.afl_ca(proxies, key, query))
            maps.append((PROXY_WEIGHT if self.quirks.defects else 1.0, mean_similarity(query, anomaly)))
        if self.quirks.defects:
            if defects is None:
                raise ValueError("found no patches of known defects, expected those of the references: see learn()")
            maps.append((DEFECT_WEIGHT, nearest(unit(query), unit(defects), valid_defects).similarity))
        weight = sum(share for share, _ in maps)
        abnormal = torch.stack([share * one for share, one in maps]).sum(dim=0) / weight
        if self.quirks.overwritten_normal and not normal_known:
            normal = 1 - abnormal
        score = (weight * abnormal + 1 - normal) / (weight + 1)
        return NaglMaps(normal, abnormal, score, proxies, anomaly)

    def _usable(self, valid: Tensor | None, normal_known: bool) -> Tensor | None:
        """Patches that a residual may be taken to: the published code ignores masks of normal references (Q11)."""
        return None if self.quirks.zero_masked and normal_known else valid

    def _mining_bias(self, marked: Tensor) -> Tensor:
        """Attention bias (B * heads, Q, L) that lets residual mining see the marked patches (B, L) only."""
        samples = torch.arange(marked.shape[0] * self.num_heads, device=marked.device)
        samples = samples % marked.shape[0] if self.quirks.mixed_masks else samples // self.num_heads
        if self.quirks.soft_mask:
            bias = -1e9 * (1 - marked)
        else:
            bias = torch.zeros_like(marked).masked_fill(~_visible(marked), -math.inf)
        return bias[samples][:, None].expand(-1, self.learnable_proxies.num_embeddings, -1)

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


def _visible(marked: Tensor) -> Tensor:
    """Patches (B, L) that count as the defect. Nothing marked: all, as an empty softmax would be NaN."""
    return (marked > 0) | ~(marked > 0).any(dim=1, keepdim=True)


def _pool_batch(abnormal: Tensor, marked: Tensor) -> Tensor:
    """Normal patches of all samples in one list, cut into equal parts (Q7), as the published code does."""
    pool = abnormal[marked == 0]
    batch = abnormal.shape[0]
    if not len(pool) or len(pool) % batch:
        raise ValueError(
            f"found {len(pool)} normal patches in a batch of {batch}, expected a positive multiple (quirk Q7): "
            "use batches of one, or variant 'corrected'"
        )
    return pool.reshape(batch, -1, pool.shape[-1])
