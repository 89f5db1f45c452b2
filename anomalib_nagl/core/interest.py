"""The region of interest in torch, as ``bank.interest`` defines it: what is traced into exported graphs too."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_nagl.core.functional import anomaly_map, image_score


class Shown(NamedTuple):
    """Which pixels (H, W) of a map and which patches (M,) lie in a region."""

    pixels: Tensor
    patches: Tensor


def shown(region: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Shown:
    """Stretch a region (h, w), of any size, to a map of ``size`` (H, W), a multiple of the ``grid``."""
    down, right = stretched(region, size)
    looked, (height, width), (rows, cols) = region > 0, size, grid
    # By index_select: an exported graph is slow at region[down].
    pixels = looked.index_select(0, down).index_select(1, right)
    # Counted, not averaged: whole numbers are the same in every runtime. Rows first: no numbers of the map's size.
    count = looked.float().index_select(0, down).reshape(rows, height // rows, -1).sum(dim=1)
    count = count.index_select(1, right).reshape(rows, cols, width // cols).sum(dim=2).flatten()
    half = height // rows * (width // cols) / 2
    return Shown(pixels, count >= count.max().clamp(max=half))


def stretched(region: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which rows (H,) and columns (W,) of a region (h, w) fall on those of a map of ``size`` (H, W)."""
    down, right = (
        torch.div(torch.arange(target, device=region.device) * source, target, rounding_mode="floor")
        for source, target in zip(region.shape, size, strict=True)
    )
    return down, right


def leaves_out(region: Tensor) -> bool:
    """Whether a region may leave something out: traced graphs have to take any."""
    return torch.compiler.is_compiling() or region.numel() > 1


def within(score: Tensor, inside: Tensor) -> Tensor:
    """Patch scores (B, M) with the smallest one of those ``inside`` (M,) in place of the others."""
    low = torch.where(inside, score, score.amax(-1, keepdim=True)).amin(-1, keepdim=True)
    return torch.where(inside, score, low)


def decisive(inside: Tensor, cells: int | None = None) -> Tensor:
    """How many patches decide the score of an image: 1 % of those ``inside`` (M,), or of fewer ``cells``, or 1."""
    looked = inside.float().sum() if cells is None else inside.float().sum().clamp(max=cells)
    return torch.div(looked, 100, rounding_mode="floor").clamp(min=1)


def score_within(score: Tensor, inside: Tensor, cells: int | None = None) -> Tensor:
    """Image scores (B,) of patch scores (B, M): the mean of the ``decisive`` largest of those ``inside`` (M,)."""
    top = score.topk(max(score.shape[-1] // 100, 1), dim=-1).values
    kept = decisive(inside, cells)
    counted = (torch.arange(top.shape[-1], device=top.device) < kept).to(top)
    return (top * counted).sum(dim=-1) / kept


def maps_within(
    score: Tensor, region: Tensor, grid: tuple[int, int], down: Tensor, right: Tensor, cells: int | None = None
) -> tuple[Tensor, Tensor]:
    """Image scores (B,) and anomaly maps (B, 1, H, W) of patch scores (B, M); zero outside a region (h, w).

    ``cells`` are the patches of a window, where images are cut.
    """
    if not leaves_out(region):
        return image_score(score, cells=cells), anomaly_map(score, down, right)
    seen = shown(region, (down.shape[0], right.shape[0]), grid)
    score = within(score, seen.patches)
    maps = anomaly_map(score, down, right)
    return score_within(score, seen.patches, cells), maps.masked_fill(~seen.pixels, 0)
