"""Thresholds from a handful of references: each is scored as if it were new."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_nagl.core.functional import anomaly_map, away_from_mask, image_score
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import AdaptedState, NaglModel, ReferenceTokens

# An image is held out block by block, so many a side. Larger blocks deviate more; the higher threshold they give is
# needed where no abnormal reference raises it.
BLOCKS, BLOCKS_ALONE = 4, 2
PIXELS = 0.01  # share of the pixels of normal references that is let through


class Calibration(NamedTuple):
    """Raw thresholds, and the half-widths around them that are shown as 0 to 1."""

    image: float
    pixel: float
    image_width: float
    pixel_width: float


class HeldOut(NamedTuple):
    """Patch scores (n, M) of normal references whose own blocks the model did not know, and (a, M) of abnormal ones."""

    normal: Tensor
    abnormal: Tensor


def held_out_scores(head: NaglHead, tokens: ReferenceTokens, state: AdaptedState, grid: tuple[int, int]) -> HeldOut:
    """Score references as if they were new; ``state`` is what was made of them.

    Each normal image is scored block by block, by all normal patches but those of the block: of the other images
    and of the rest of itself, so that a single image will do. Leaving out whole images was measured too: the few
    that remain say too little, and thresholds come out far too high. Without normal references, the normal patches of
    the abnormal ones are held out likewise, and their marked patches do not count. Of an abnormal reference every
    other marked patch is held out, and then the rest, as far as known defects are compared with at all.
    """
    normal, abnormal, marked, localized = tokens
    known = len(normal) > 0
    images, hidden = (normal, None) if known else (abnormal, marked > 0)
    blocks = BLOCKS if len(abnormal) else BLOCKS_ALONE
    away = away_from_mask(marked, grid) & localized[:, None] & (known and head.variant.context)
    rest = state.replace(normal_bank=abnormal[away])
    scores = [_score_blocks(head, images, hidden, i, rest, grid, blocks) for i in range(len(images))]
    defects = _score_abnormal(head, abnormal, (marked > 0) & localized[:, None], state, grid)
    return HeldOut(torch.stack(scores), defects)


def _score_blocks(
    head: NaglHead,
    images: Tensor,
    hidden: Tensor | None,
    index: int,
    state: AdaptedState,
    grid: tuple[int, int],
    blocks: int,
) -> Tensor:
    """Patch scores (M,) of one of the images (n, M, C), by their patches that are not ``hidden`` (n, M).

    The normal bank of ``state`` is what other images add to them.
    """
    query = images[index]
    rows, cols = torch.meshgrid(*(torch.arange(side) * blocks // side for side in grid), indexing="ij")
    block = (rows * blocks + cols).flatten().to(query.device)
    usable = torch.ones(images.shape[:2], dtype=torch.bool, device=query.device) if hidden is None else ~hidden
    score = query.new_zeros(len(query))
    for number in range(blocks * blocks):
        allowed = usable.clone()
        allowed[index] &= block != number
        bank = torch.cat([images[allowed], state["normal_bank"]])
        if len(bank):
            found = _score(head, query[None], state.replace(normal_bank=bank), grid)
            score[block == number] = found[0][block == number]
    return score if hidden is None else score.masked_fill(hidden[index], float(score.min()))


def _score_abnormal(
    head: NaglHead, images: Tensor, marked: Tensor, state: AdaptedState, grid: tuple[int, int]
) -> Tensor:
    """Patch scores (a, M) of abnormal references (a, M, C): none of their marked patches is compared with itself."""
    score = _score(head, images, state, grid)
    for i in range(len(images) if head.variant.defects else 0):
        places = marked[i].nonzero()[:, 0]
        for part in (places[::2], places[1::2]):
            others = marked.clone()
            others[i, part] = False
            if len(part) and bool(others.any()):
                left = state.replace(defect_bank=images[others])
                score[i, part] = _score(head, images[i : i + 1], left, grid)[0, part]
    return score


def _score(head: NaglHead, images: Tensor, state: AdaptedState, grid: tuple[int, int]) -> Tensor:
    return head.score(images, state.batched(), grid).score


def threshold(normal: Tensor, abnormal: Tensor) -> float:
    """Threshold between held-out normal scores (n,) and abnormal ones (a,), which may be none.

    Half-way between their means, whichever is higher: a held-out block misses its own patches, which raises normal
    scores, so a defect may well score no more. Without abnormal ones the largest normal score.
    """
    if len(abnormal):
        return float((normal.mean() + abnormal.mean()) / 2)
    return float(normal.max())


def shown_width(middle: float, *scores: Tensor) -> float:
    """Half-width of the range of map values shown as 0 to 1.

    It reaches down to 0, and is twice the largest distance of any of these values from the threshold at least, so that
    hardly any value lies beyond it.
    """
    return max([2 * float((score - middle).abs().max()) for score in scores if len(score)] + [middle, 1e-3])


@torch.no_grad()
def calibrate(model: NaglModel, tokens: ReferenceTokens, state: AdaptedState) -> Calibration:
    """Raw thresholds for images and pixels from the references alone; ``state`` is what was made of them.

    Images: see ``threshold``. Pixels: what 1 % of the anomaly map of held-out normal references exceeds.
    """
    held_out = held_out_scores(model.head, tokens, state, model.encoder.grid)
    normal, abnormal = (image_score(scores) for scores in held_out)
    normal_map, abnormal_map = (
        anomaly_map(scores, model.smooth_down, model.smooth_right).flatten() for scores in held_out
    )
    image, pixel = threshold(normal, abnormal), _high(normal_map)
    # Image scores lie in [0, 1], and all of them stay apart: none is cut off, and the raw one can always be had back.
    return Calibration(image, pixel, max(image, 1 - image), shown_width(pixel, normal_map, abnormal_map))


def _high(values: Tensor) -> float:
    """What the highest 1 % of all pixels (P,) exceed."""
    return float(values.kthvalue(max(int((1 - PIXELS) * len(values)), 1)).values)
