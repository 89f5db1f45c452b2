"""Thresholds from a handful of references: each is scored as if it were new."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_nagl.head import NaglHead
from anomalib_nagl.post_processing import Calibration
from anomalib_nagl.torch_model import NaglModel, ReferenceTokens

BLOCKS = 2  # a picture that cannot be left out as a whole is left out block by block, 2 x 2
PIXELS = 0.01  # share of the pixels of normal references that is let through


class HeldOut(NamedTuple):
    """Patch scores of references that the model did not know, each (M,): normal ones, and abnormal ones."""

    normal: list[Tensor]
    abnormal: list[Tensor]


def held_out_scores(head: NaglHead, tokens: ReferenceTokens, grid: tuple[int, int]) -> HeldOut:
    """Score each reference against the others.

    A single normal one is scored block by block against the rest of itself; without any, so are the unmarked patches of
    the abnormal ones (their marked patches get the lowest score of the picture). A single abnormal one is scored as it
    is: the head has no other example then.
    """
    normal, abnormal, marked = tokens
    if len(normal) > 1:
        scores = [
            _score(head, _without(tokens.normal, i), abnormal, marked, normal[i], grid) for i in range(len(normal))
        ]
    elif len(normal):
        scores = [_score_blocks(head, tokens, normal[0], None, grid)]
    else:
        scores = [_score_blocks(head, tokens, abnormal[i], marked[i], grid) for i in range(len(abnormal))]
    others = range(len(abnormal))
    if len(abnormal) > 1:
        left = [_score(head, normal, _without(abnormal, i), _without(marked, i), abnormal[i], grid) for i in others]
    else:
        left = [_score(head, normal, abnormal, marked, abnormal[i], grid) for i in others]
    return HeldOut(scores, left)


def _without(tensor: Tensor, index: int) -> Tensor:
    return torch.cat([tensor[:index], tensor[index + 1 :]])


def _score(
    head: NaglHead, normal: Tensor, abnormal: Tensor, marked: Tensor, query: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Patch scores (M,) of a query (M, C) by references (n, M, C), (a, M, C) and (a, M)."""
    bank, proxies = head.learn(normal, abnormal, marked, grid)
    return head.detect(query[None], bank[None], proxies[None], grid, normal_known=len(normal) > 0).score[0]


def _score_blocks(
    head: NaglHead, tokens: ReferenceTokens, query: Tensor, hidden: Tensor | None, grid: tuple[int, int]
) -> Tensor:
    """Patch scores (M,) of a reference, each block against all normal patches but those of the block itself."""
    proxies = head.learn(*tokens, grid)[1]
    rows, cols = torch.meshgrid(*(torch.arange(side) * BLOCKS // side for side in grid), indexing="ij")
    block = (rows * BLOCKS + cols).flatten().to(query.device)
    score = query.new_zeros(len(query))
    for number in range(BLOCKS * BLOCKS):
        inside = block == number
        allowed = ~inside if hidden is None else ~inside & (hidden == 0)
        if not bool(allowed.any()):
            continue
        rest = query[allowed]
        found = head.detect(query[None], rest[None], proxies[None], grid, normal_known=hidden is None).score[0]
        score[inside] = found[inside]
    if hidden is not None and bool((hidden == 0).any()):
        score[hidden > 0] = score[hidden == 0].min()
    return score


def threshold(normal: Tensor, abnormal: Tensor) -> float:
    """Threshold between held-out normal scores (n,) and abnormal ones (a,), which may be none.

    Half-way between their means; the largest normal score when there are no abnormal ones, or when these are not higher
    on average.
    """
    if len(abnormal) and float(abnormal.mean()) > float(normal.mean()):
        return float((normal.mean() + abnormal.mean()) / 2)
    return float(normal.max())


def shown_width(middle: float, *scores: Tensor) -> float:
    """Half-width of the range shown as 0 to 1: twice the largest distance of any of these scores from the threshold.

    Hardly any score lies beyond it, so that the raw one can be had from the normalised one.
    """
    return 2 * max([float((score - middle).abs().max()) for score in scores if len(score)] + [1e-3])


@torch.no_grad()
def calibrate(model: NaglModel, tokens: ReferenceTokens) -> Calibration:
    """Raw thresholds for images and pixels from the references alone.

    Images: see ``threshold``. Pixels: what 1 % of the anomaly map of held-out normal references exceeds.
    """
    normal, abnormal = (
        model.predictions(torch.stack(scores)) if scores else None
        for scores in held_out_scores(model.head, tokens, model.encoder.grid)
    )
    if normal is None or normal.pred_score is None or normal.anomaly_map is None:
        raise RuntimeError("found no reference to calibrate on, expected at least one: report this as a bug")
    none = normal.pred_score.new_zeros(0)
    scores = none if abnormal is None or abnormal.pred_score is None else abnormal.pred_score
    maps = none if abnormal is None or abnormal.anomaly_map is None else abnormal.anomaly_map
    image = threshold(normal.pred_score, scores)
    pixel = _high(normal.anomaly_map)
    return Calibration(
        image,
        pixel,
        shown_width(image, normal.pred_score, scores),
        shown_width(pixel, normal.anomaly_map.flatten(), maps.flatten()),
    )


def _high(maps: Tensor) -> float:
    """What the highest 1 % of all pixels exceed."""
    values = maps.flatten()
    return float(values.kthvalue(max(int((1 - PIXELS) * len(values)), 1)).values)
