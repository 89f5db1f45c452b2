"""The scale of ``bank.scale`` in torch, as the post-processor and exported graphs compute it."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_nagl.bank.scale import LEAST, NARROWEST, STEEPNESS


def shown(raw: Tensor, good: Tensor, threshold: Tensor, defective: Tensor) -> Tensor:
    """Raw scores of any shape on the scale of three raw numbers; see ``bank.scale.Scale``."""
    middle = torch.where(torch.isnan(threshold), (good + defective) / 2, threshold)
    least = (LEAST * (defective - good).abs()).clamp(min=NARROWEST)
    low, high = torch.maximum(middle - good, least), torch.maximum(defective - middle, least)
    far = STEEPNESS * (raw - middle) / torch.where(raw < middle, low, high)
    known = ~(torch.isnan(good) | torch.isnan(defective))
    return torch.where(known, 0.5 + 0.5 * far / (1 + far.abs()), raw)
