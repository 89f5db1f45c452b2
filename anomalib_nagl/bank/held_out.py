"""References scored as if they were new: by what a detector would be without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import (
    ReferencePatches,
    assemble,
    background,
    defect_directions,
    deviation_spread,
    surroundings,
)
from anomalib_nagl.bank.interest import within
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.pools import ArrayPool, Pool, counts, heads
from anomalib_nagl.bank.views import origins

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
Places = NDArray[Any]
State = Mapping[str, Floats]  # the tensors of ``adapted.TENSORS``

# An image that has no other to be compared with is held out block by block, so many a side. Larger blocks deviate
# more; the higher threshold they give is needed where no abnormal reference raises it.
BLOCKS, BLOCKS_ALONE = 4, 2
SAMPLE = 32  # references of a kind that are scored: more say little more, and each costs a detector without it


class Detector(NamedTuple):
    """What scores references.

    ``score`` makes patch scores (B, M) of tokens (B, M, C) by a state, ``maps`` anomaly maps (B, H, W) of these.
    ``cells`` are the patches of a window, where images are cut (``maps.image_score``).
    """

    score: Callable[[Floats, State], Floats]
    maps: Callable[[Floats], Floats]
    cells: int | None = None


class HeldOut(NamedTuple):
    """Patch scores (n, M) of normal and (a, M) of abnormal references that were not known.

    ``marked`` (a, M) are the abnormal patches of the latter. Outside the region of interest all have the smallest score
    inside.
    """

    normal: Floats
    abnormal: Floats
    marked: NDArray[np.bool_]


def sample(keys: Sequence[str], limit: int = SAMPLE) -> list[int]:
    """Which references are scored, rising: those with the smallest keys, hashes of their content.

    So it does not depend on their order which ones they are.
    """
    return sorted(sorted(range(len(keys)), key=lambda index: keys[index])[:limit])


def held_out_scores(patches: ReferencePatches, state: State, detector: Detector) -> HeldOut:
    """Score references as if they were new, ``SAMPLE`` of each kind at most; ``state`` is made of them all.

    Known defects decide a score as much as normal parts do, so both kinds are scored by detectors alike: of two or more
    images of a kind, each by the references without it. A single normal image beside known defects: it is scored by
    their surroundings and these by it, ``_crosswise``;
    without any, block by block: what is left of few whole images says too little then, and thresholds come out far too
    high. A single abnormal image is known too well with itself as a reference and not at all without: the mean of its
    score and of its deviation from normal alone. Proxies, which a head has learned, stay those of all references.
    Regions that were shown to be normal are compared with and not scored.
    """
    scoring = _Scoring(patches, state, detector)
    cells = patches.cells
    chosen = sample([one.marked.key for one in patches.abnormal])
    known = [scoring.abnormal(i) for i in chosen]
    marked = [scoring.marked(i) for i in chosen]
    normal, abnormal = (within(_stacked(scores, cells), patches.inside) for scores in (_normal(scoring), known))
    return HeldOut(normal, abnormal, np.array(marked, bool).reshape(-1, cells))


def _normal(scoring: _Scoring) -> list[Floats]:
    """Patch scores (M,) of normal images that were not known."""
    patches = scoring.patches
    patches_of_all = int(patches.inside[scoring.origin].sum())
    whole = [i for i, pool in enumerate(patches.normal) if len(pool) == patches_of_all]
    chosen = [whole[i] for i in sample([patches.normal[i].key for i in whole])]
    around = [i for i, one in enumerate(patches.abnormal) if one.shown and len(one.away)]
    if len(whole) > 1 and patches.abnormal:
        return [scoring.normal(i) for i in chosen]
    seen = [around[i] for i in sample([patches.abnormal[i].away.key for i in around])]
    if whole and seen:
        return _crosswise(scoring, whole[0], seen)
    if patches.normal and seen:
        return [scoring.around(i) for i in seen]
    return _blockwise(scoring, chosen or list(range(len(patches.normal)))[:SAMPLE])


def _crosswise(scoring: _Scoring, image: int, around: Sequence[int]) -> list[Floats]:
    """The surroundings of known defects scored by a single normal image, and that image by these.

    Each by a discriminant of what it is compared with: one that knew them would make normal parts of both too sure.
    """
    return [*(scoring.around(i) for i in around), scoring.by_surroundings(image)]


def _blockwise(scoring: _Scoring, chosen: Sequence[int]) -> list[Floats]:
    """Images block by block, each by all normal patches but those of the block: of itself and of others.

    Without normal images, the normal patches of abnormal ones.
    """
    patches, origin = scoring.patches, scoring.origin
    side = BLOCKS if patches.abnormal else BLOCKS_ALONE
    block = _blocks(patches.grid, side)
    if patches.normal:
        pools: Sequence[Pool] = patches.normal
        others, images = surroundings(patches), {i: ([patches.normal[i]], [patches.normal[i]]) for i in chosen}
    else:
        pools, others = [one.unmarked for one in patches.abnormal], np.empty((0, patches.width), np.float32)
        shown = sample([one.marked.key for one in patches.abnormal])
        parts = {i: patches.abnormal[i] for i in shown if len(patches.abnormal[i].unmarked)}
        images = {i: ([one.marked, one.unmarked], [one.unmarked]) for i, one in parts.items()}
    bank = _Bank.of(pools, patches.limits.normal, others, origin)
    return [scoring.blocks(i, *image, bank, block, side * side) for i, image in images.items()]


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


class _Sums:
    """Sums over pools of some of the references, made of those over all and what is not among them."""

    def __init__(self, patches: ReferencePatches) -> None:
        self._all: dict[str, tuple[dict[int, Pool], Moments]] = {}
        self._width = patches.width

        def remember(name: str, pools: Sequence[Pool]) -> Moments:
            given = patches.sums
            found = given(name, pools) if given else Moments.sum((pool.moments for pool in pools), patches.width)
            self._all[name] = ({id(pool): pool for pool in pools}, found)
            return found

        whole = patches._replace(sums=remember)
        background(whole)
        defect_directions(whole)

    def __call__(self, name: str, pools: Sequence[Pool]) -> Moments:
        """Sums over all patches of some pools."""
        known, found = self._all.get(name, ({}, Moments.none(self._width)))
        wanted = {id(pool): pool for pool in pools}
        gone = [pool for key, pool in known.items() if key not in wanted]
        new = [pool for key, pool in wanted.items() if key not in known]
        if len(gone) > len(wanted):
            return Moments.sum((pool.moments for pool in pools), self._width)
        lost, won = (Moments.sum((pool.moments for pool in part), self._width) for part in (gone, new))
        return found.minus(lost).plus(won)


class _Scoring:
    """Detectors without some of the references."""

    def __init__(self, patches: ReferencePatches, state: State, detector: Detector) -> None:
        self.patches = patches._replace(sums=_Sums(patches))
        self.origin = origins(patches.grid, patches.views)
        self._state, self._detector = dict(state), detector
        self._nothing = ArrayPool(np.empty((0, patches.width), np.float32))

    def normal(self, index: int) -> Floats:
        """Patch scores (M,) of a normal image by the others."""
        normal = self.patches.normal
        others = self.patches._replace(normal=normal[:index] + normal[index + 1 :])
        return self._score([normal[index]], assemble(others))

    def abnormal(self, index: int) -> Floats:
        """Patch scores (M,) of an abnormal image by the others or, without any, by itself and by what is normal."""
        every, one = self.patches.abnormal, self.patches.abnormal[index]
        image = [one.marked, one.unmarked]
        rest = every[:index] + every[index + 1 :]
        if rest and (self.patches.normal or any(len(other.unmarked) for other in rest)):
            return self._known(image, self._score(image, assemble(self.patches._replace(abnormal=rest))))
        kinds = self._state["reference_kinds"] * np.array([1, 0], np.float32)
        alone: Floats = (self._score(image, {}) + self._score(image, {"reference_kinds": kinds})) / np.float32(2)
        return self._known(image, alone)

    def _known(self, image: Sequence[Pool], score: Floats) -> Floats:
        """Scores of an image of which some windows may never have been seen."""
        there = self._there(image)
        return score if there.all() else _only(score, there)

    def marked(self, index: int) -> NDArray[np.bool_]:
        """The abnormal patches (M,) of an abnormal image."""
        return self._there([self.patches.abnormal[index].marked])

    def around(self, index: int) -> Floats:
        """Patch scores (M,) of the surroundings of a defect, which are normal, by everything else."""
        every, one = self.patches.abnormal, self.patches.abnormal[index]
        without = (*every[:index], one._replace(away=self._nothing), *every[index + 1 :])
        state = self._told(self.patches._replace(abnormal=without))
        return _only(self._score([one.marked, one.unmarked], state), self._there([one.away]))

    def by_surroundings(self, index: int) -> Floats:
        """Patch scores (M,) of a normal image by the surroundings of known defects alone."""
        every = self.patches.abnormal
        others = self.patches._replace(
            normal=tuple(one.away for one in every if one.shown and len(one.away)),
            abnormal=tuple(one._replace(away=self._nothing) for one in every),
        )
        return self._score([self.patches.normal[index]], self._told(others))

    def _told(self, others: ReferencePatches) -> dict[str, Floats]:
        """The state of other references, in which a deviation is worth as much as in that of all."""
        state, own = assemble(others), deviation_spread(others)
        scale = deviation_spread(self.patches) / own if own > 0 else 1.0
        state["defect_directions"] = (state["defect_directions"] * scale).astype(np.float32)
        return {**state, "defect_weight": self._state["defect_weight"]}

    def blocks(
        self, image: int, pools: Sequence[Pool], normal: Sequence[Pool], bank: _Bank, block: Indices, number: int
    ) -> Floats:
        """Patch scores (M,) of an image, each block of it by the bank without that block; of ``normal`` patches."""
        tokens, there = self._whole(pools), self._there(normal)
        score = np.zeros(len(tokens), np.float32)
        for held_out in range(number):
            known = (bank.owner != image) | (block[bank.place] != held_out)
            own = block == held_out
            if known.any() and (own & there).any():
                found = self._detector.score(tokens[None], {**self._state, "normal_bank": bank.patches[known]})[0]
                score[own] = found[own]
        return _only(score, there)

    def _score(self, pools: Sequence[Pool], state: State) -> Floats:
        found: Floats = self._detector.score(self._whole(pools)[None], {**self._state, **state})[0]
        return np.array(found)

    def _whole(self, pools: Sequence[Pool]) -> Floats:
        """The patches (M, C) of an image as it is, in their places; zero where there is none.

        Outside the region of interest, which no pool keeps, is the mean of those inside: a head reads it too.
        """
        tokens = np.concatenate([pool.head(len(pool)) for pool in pools])
        places = np.concatenate([pool.places(len(pool)) for pool in pools])
        upright, found = places < self.patches.cells, np.zeros((self.patches.cells, self.patches.width), np.float32)
        found[places[upright]] = tokens[upright]
        if not (inside := self.patches.inside).all():
            found[~inside] = tokens[upright].mean(axis=0)
        return found

    def _there(self, pools: Sequence[Pool]) -> NDArray[np.bool_]:
        """Which patches (M,) of an image as it is are in these pools."""
        found = np.zeros(self.patches.cells, bool)
        for pool in pools:
            found[self.origin[pool.places(len(pool))]] = True
        return found


def _only(score: Floats, there: NDArray[np.bool_]) -> Floats:
    """Scores (M,) with the smallest of those that are ``there`` in place of the others."""
    if there.any():
        score[~there] = score[there].min()
    return score


def _blocks(grid: tuple[int, int], side: int) -> Indices:
    """The block (M,) that each patch of a grid belongs to, of ``side`` x ``side``."""
    rows, cols = (np.arange(length) * side // length for length in grid)
    block: Indices = (rows[:, None] * side + cols).reshape(-1)
    return block


def _stacked(scores: Sequence[Floats], length: int) -> Floats:
    return np.array(scores, np.float32).reshape(-1, length)
