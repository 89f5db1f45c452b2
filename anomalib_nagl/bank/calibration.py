"""Thresholds from a handful of references: each is scored as if it were new."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import AbnormalPools, ReferencePatches, surroundings
from anomalib_nagl.bank.maps import image_score
from anomalib_nagl.bank.pools import Pool, counts, heads
from anomalib_nagl.bank.views import origins

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Places = NDArray[Any]
State = Mapping[str, Floats]  # the tensors of ``adapted.TENSORS``

# An image is held out block by block, so many a side. Larger blocks deviate more; the higher threshold they give is
# needed where no abnormal reference raises it.
BLOCKS, BLOCKS_ALONE = 4, 2
PIXELS = 0.01  # share of the pixels of normal references that is let through
SAMPLE = 32  # references of a kind that are scored: more say little more, and each costs BLOCKS**2 queries


class Calibration(NamedTuple):
    """Raw thresholds, and the half-widths around them that are shown as 0 to 1.

    With ``overlap`` some of the normal references scored as high as one of the abnormal ones when they were held out:
    on this part they do not tell for certain where the threshold lies.
    """

    image: float
    pixel: float
    image_width: float
    pixel_width: float
    overlap: bool = False


class Detector(NamedTuple):
    """What scores references.

    ``score`` makes patch scores (B, M) of tokens (B, M, C) by a state, ``maps`` anomaly maps (B, H, W) of these;
    ``defects`` tells whether known defects are compared with at all.
    """

    score: Callable[[Floats, State], Floats]
    maps: Callable[[Floats], Floats]
    defects: bool


class HeldOut(NamedTuple):
    """Patch scores (n, M) of normal references whose own blocks were not known, and (a, M) of abnormal ones."""

    normal: Floats
    abnormal: Floats


class _Bank(NamedTuple):
    """Patches (K, C) that are compared with, whose they are (K,), -1 where it does not matter, and where (K,)."""

    patches: Floats
    owner: Indices
    place: Indices

    @classmethod
    def of(cls, pools: Sequence[Pool], limit: int | None, others: Floats, origin: Indices) -> _Bank:
        """What is kept of pools, then patches of nobody (P, C); ``origin`` are the places of all views (V * M,)."""
        kept = counts(pools, limit)
        owner = np.repeat(np.arange(len(pools)), kept)
        place = [origin[pool.places(count)] for pool, count in zip(pools, kept, strict=True)]
        return cls(
            np.concatenate([heads(pools, limit, others.shape[-1]), others]),
            np.append(owner, np.full(len(others), -1)),
            np.concatenate([np.empty(0, np.int64), *place, np.zeros(len(others), np.int64)]).astype(np.int64),
        )


def sample(keys: Sequence[str], limit: int = SAMPLE) -> list[int]:
    """Which references are scored, rising: those with the smallest keys, hashes of their content.

    So it does not depend on their order which ones they are.
    """
    return sorted(sorted(range(len(keys)), key=lambda index: keys[index])[:limit])


def held_out_scores(patches: ReferencePatches, state: State, detector: Detector) -> HeldOut:
    """Score references as if they were new, ``SAMPLE`` of each kind at most; ``state`` is made of them all.

    Each normal image is scored block by block, by all normal patches but those of the block: of the other images
    and of the rest of itself, so that a single image will do. Leaving out whole images was measured too: the few
    that remain say too little, and thresholds come out far too high. Without normal references, the normal patches of
    the abnormal ones are held out likewise, and their marked patches do not count. Of an abnormal reference every
    other marked patch is held out, and then the rest, as far as known defects are compared with at all. Normal regions
    are compared with and not scored.
    """
    cells, limits, origin = patches.cells, patches.limits, origins(patches.grid, patches.views)
    nothing = np.empty((0, patches.width), np.float32)
    shown = sample([one.marked.key for one in patches.abnormal])
    images = {i: _whole([patches.abnormal[i].marked, patches.abnormal[i].unmarked], cells) for i in shown}
    side = BLOCKS if patches.abnormal else BLOCKS_ALONE
    block = _blocks(patches.grid, side)
    if patches.normal:
        full = [i for i, pool in enumerate(patches.normal) if len(pool) == len(origin)]
        chosen = sample([patches.normal[i].key for i in full])
        bank = _Bank.of(patches.normal, limits.normal, surroundings(patches), origin)
        scored = {full[i]: _whole([patches.normal[full[i]]], cells) for i in chosen}
        hidden: dict[int, Places] = {}
    else:
        bank = _Bank.of([one.unmarked for one in patches.abnormal], limits.normal, nothing, origin)
        scored, hidden = images, {i: origin[_places(patches.abnormal[i].marked)] for i in shown}
    normal = [_score_blocks(i, tokens, bank, state, detector, block, side * side) for i, tokens in scored.items()]
    for found, places in zip(normal, hidden.values(), strict=False):
        found[places] = found.min()
    known = [i for i, one in enumerate(patches.abnormal) if one.localized]
    defects = _Bank.of([patches.abnormal[i].marked for i in known], limits.defects, nothing, origin)
    defects = defects._replace(owner=np.array(known, np.int64)[defects.owner])
    abnormal = [
        _score_abnormal(i, image, patches.abnormal[i], defects, state, detector, origin) for i, image in images.items()
    ]
    return HeldOut(_stacked(normal, cells), _stacked(abnormal, cells))


def _places(pool: Pool) -> Places:
    return pool.places(len(pool))


def _whole(pools: Sequence[Pool], cells: int) -> Floats:
    """All patches (M, C) of an image as it is, in their places."""
    tokens = np.concatenate([pool.head(len(pool)) for pool in pools])
    places = np.concatenate([_places(pool) for pool in pools])
    upright = places < cells
    found = np.zeros((cells, tokens.shape[-1]), np.float32)
    found[places[upright]] = tokens[upright]
    return found


def _blocks(grid: tuple[int, int], side: int) -> Indices:
    """The block (M,) that each patch of a grid belongs to, of ``side`` x ``side``."""
    rows, cols = (np.arange(length) * side // length for length in grid)
    block: Indices = (rows[:, None] * side + cols).reshape(-1)
    return block


def _score_blocks(
    image: int, tokens: Floats, bank: _Bank, state: State, detector: Detector, block: Indices, number: int
) -> Floats:
    """Patch scores (M,) of an image (M, C), each block of it by the bank without that block."""
    score = np.zeros(len(tokens), np.float32)
    for held_out in range(number):
        known = (bank.owner != image) | (block[bank.place] != held_out)
        if known.any():
            found = detector.score(tokens[None], {**state, "normal_bank": bank.patches[known]})[0]
            score[block == held_out] = found[block == held_out]
    return score


def _score_abnormal(
    index: int,
    tokens: Floats,
    pools: AbnormalPools,
    defects: _Bank,
    state: State,
    detector: Detector,
    origin: Indices,
) -> Floats:
    """Patch scores (M,) of an abnormal reference: none of its marked patches is compared with itself."""
    score = np.array(detector.score(tokens[None], state)[0])
    places = np.unique(origin[_places(pools.marked)]) if detector.defects and pools.localized else np.empty(0, np.int64)
    for part in (places[::2], places[1::2]):
        others = (defects.owner != index) | ~np.isin(defects.place, part)
        if len(part) and others.any():
            found = detector.score(tokens[None], {**state, "defect_bank": defects.patches[others]})[0]
            score[part] = found[part]
    return score


def _stacked(scores: Sequence[Floats], length: int) -> Floats:
    return np.array(scores, np.float32).reshape(-1, length)


def threshold(normal: Floats, abnormal: Floats) -> float:
    """Threshold between held-out normal scores (n,) and abnormal ones (a,), which may be none.

    Half-way between their means, whichever is higher: a held-out block misses its own patches, which raises normal
    scores, so a defect may well score no more. Without abnormal ones the largest normal score.
    """
    if len(abnormal):
        return float(normal.mean(dtype=np.float64) + abnormal.mean(dtype=np.float64)) / 2
    return float(normal.max())


def shown_width(middle: float, *scores: Floats) -> float:
    """Half-width of the range of map values shown as 0 to 1.

    It reaches down to 0, and is twice the largest distance of any of these values from the threshold at least, so that
    hardly any value lies beyond it.
    """
    return max([2 * float(np.abs(score - middle).max()) for score in scores if len(score)] + [middle, 1e-3])


def calibrate(patches: ReferencePatches, state: State, detector: Detector) -> Calibration:
    """Raw thresholds for images and pixels from the references alone; see ``held_out_scores`` for the arguments.

    Images: see ``threshold``. Pixels: what 1 % of the anomaly map of held-out normal references exceeds.
    """
    held_out = held_out_scores(patches, state, detector)
    normal, abnormal = image_score(held_out.normal), image_score(held_out.abnormal)
    image, overlap = threshold(normal, abnormal), bool(len(abnormal)) and float(normal.max()) >= float(abnormal.min())
    normal_map, abnormal_map = (detector.maps(scores).reshape(-1) for scores in held_out)
    pixel = _high(normal_map)
    # Image scores lie in [0, 1], and all of them stay apart: none is cut off, and the raw one can always be had back.
    return Calibration(image, pixel, max(image, 1 - image), shown_width(pixel, normal_map, abnormal_map), overlap)


def _high(values: Floats) -> float:
    """What the highest 1 % of all pixels (P,) exceed."""
    place = max(int((1 - PIXELS) * len(values)), 1) - 1
    return float(np.partition(values, place)[place])
