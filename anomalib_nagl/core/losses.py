"""Image and pixel losses of NAGL (specification, section 11)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from anomalib_nagl.core.functional import image_score, top_mean
from anomalib_nagl.core.head import NaglMaps
from anomalib_nagl.core.variants import Variant

TEMPERATURE = 10.0  # steepness of the corrected logits: a similarity gap of 0.3 means 95 % certainty
TOP_COUNT = 20  # patches in the published training score


class Losses(NamedTuple):
    """The training loss, a scalar, and the three parts it is the sum of."""

    total: Tensor
    cross_entropy: Tensor
    focal: Tensor
    dice: Tensor


class NaglLoss(nn.Module):
    """Cross-entropy of the image score, focal and Dice loss of the two maps.

    ``variant`` is read as in ``NaglHead``: the published loss takes similarities for logits (Q12) and supervises the 20
    largest patch scores (Q13); the corrected one scales the similarities and supervises the score that is used at test.
    """

    def __init__(self, variant: str = "paper") -> None:
        super().__init__()
        self.variant = Variant.parse(variant)

    def forward(self, maps: NaglMaps, query_mask: Tensor, label: Tensor, grid: tuple[int, int]) -> Losses:
        """Compare maps with 0/1 pixel masks (B, H, W) and labels (B,), 1 for abnormal."""
        score = self.training_score(maps.score)
        image = torch.stack([1 - score, score], dim=1)
        pixel = torch.stack([maps.normal_similarity, maps.abnormal_similarity], dim=1).unflatten(-1, grid)
        pixel = F.interpolate(pixel, size=query_mask.shape[-2:], mode="bilinear")
        query_mask = query_mask.to(pixel)
        target = torch.stack([1 - query_mask, query_mask], dim=1)
        if not self.variant.similarity_logits:
            image, pixel = ((value - 0.5) * TEMPERATURE for value in (image, pixel))
        parts = (
            F.cross_entropy(image, label.long()),
            sigmoid_focal_loss(pixel, target, reduction="mean"),
            dice_loss(pixel, target),
        )
        return Losses(parts[0] + parts[1] + parts[2], *parts)

    def training_score(self, score: Tensor) -> Tensor:
        """Image score (B,) that is supervised, of patch scores (B, M); ValueError if there are too few patches."""
        if not self.variant.top_twenty:
            return image_score(score)
        if score.shape[-1] < TOP_COUNT:
            raise ValueError(
                f"found {score.shape[-1]} patches, expected at least {TOP_COUNT} for the published training score: "
                "use larger images or variant 'corrected'"
            )
        return top_mean(score, TOP_COUNT)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of softmax probabilities (B, 2, H, W), summed over both channels, averaged over the batch."""
    probability = logits.softmax(dim=1)
    overlap = (probability * target).flatten(2).sum(-1)
    total = (probability + target).flatten(2).sum(-1)
    return (1 - (2 * overlap + 1) / (total + 1)).mean(dim=0).sum()
