"""Fisher's direction of known defects as an input of a head: found for each episode of a training, read for a query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_nagl.bank.discriminant import FLAT, SHRINKAGE

UNIT = 1e-12


@torch.no_grad()
def episode_direction(bank: Tensor, valid: Tensor | None, abnormal: Tensor, marked: Tensor) -> dict[str, Tensor]:
    """``defect_directions`` (B, 1, C) and ``normal_mean`` (B, C) of episodes, as ``bank.discriminant`` makes them.

    Of normal patches (B, K, C), those that are ``valid`` (B, K), and abnormal references (B, a, M, C) marked at
    (B, a, M). The direction is not scaled: a guide reads where patches lie along it, not how far. Zero where nothing
    is marked, everything is, or normal patches are all alike.
    """
    normal = F.normalize(bank, dim=-1, eps=UNIT)
    counted = torch.ones_like(normal[..., 0]) if valid is None else valid.to(normal)
    number = counted.sum(dim=1)[:, None, None].clamp(min=1)
    mean = counted[:, None] @ normal / number
    centred = (normal - mean) * counted[..., None]
    covariance = centred.transpose(1, 2) @ centred / number
    shown = (marked > 0) & ~(marked > 0).all(dim=-1, keepdim=True)
    weight = shown.flatten(1).to(normal)[:, None]
    defects = weight @ F.normalize(abnormal, dim=-1, eps=UNIT).flatten(1, 2) / weight.sum(-1, keepdim=True).clamp(min=1)
    variance = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    known = (weight.sum(-1, keepdim=True) > 0) & (variance > FLAT)
    sphere = torch.eye(bank.shape[-1], device=bank.device, dtype=bank.dtype)
    shrunk = (1 - SHRINKAGE) * covariance + torch.where(known, SHRINKAGE * variance, 1.0) * sphere
    direction = torch.linalg.solve(shrunk, (defects - mean).transpose(1, 2)).transpose(1, 2)
    return {"defect_directions": torch.where(known, direction, 0.0), "normal_mean": mean[:, 0]}


def along(query: Tensor, directions: Tensor, mean: Tensor) -> Tensor:
    """How far patches (B, M, C) lie from the normal mean (B, C) along the one of (B, T, C) that is best, (B, M)."""
    # Centred first: what all tokens have in common would cost digits.
    centred = F.normalize(query, dim=-1, eps=UNIT) - mean[:, None]
    return (centred @ directions.transpose(1, 2)).amax(dim=-1)


def guide(query: Tensor, directions: Tensor, mean: Tensor) -> Tensor:
    """The same in standard deviations of the patches of each query, about their mean; 0 where all are alike."""
    found = along(query, directions, mean)
    found = found - found.mean(dim=-1, keepdim=True)
    spread = (found * found).mean(dim=-1, keepdim=True).sqrt()
    return torch.where(spread > UNIT, found / spread.clamp(min=UNIT), 0.0)


def contrast(similarity: Tensor) -> Tensor:
    """By how much the similarity of patches (B, M) is above the mean of their image; at least 0."""
    return (similarity - similarity.mean(dim=-1, keepdim=True)).clamp(min=0)
