"""What a query is compared with: tensors that are made of the references once, here, for torch and the box alike.

A new tensor is one entry of ``TENSORS`` with the rule that makes it: the model's buffers, exported graphs and the box
take it from there, and a fusion rule (``core/fusion.py``) finds it under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.patch_masks import away_from_mask
from anomalib_nagl.bank.pools import ArrayPool, Pool, counts, heads
from anomalib_nagl.io.errors import EdgeError

Floats = NDArray[np.float32]
BANK_LIMIT = 4096  # patches of each kind that a query is compared with, see Limits
MINED = 4  # images that residual mining reads each on a grid of its own
MINED_TOGETHER = 2  # grids on which the marked patches of more images are put together
MINED_ALONE = 32  # images that it reads where they cannot be put together


class Limits(NamedTuple):
    """How many patches are compared with: of normal references, surroundings, known defects, and in residual mining.

    None keeps all of them.
    """

    normal: int | None
    surroundings: int | None
    defects: int | None
    mined: int | None

    @classmethod
    def of(cls, limit: int | None) -> Limits:
        """Limits by one number, that of normal patches; half as many of the other kinds."""
        if limit is None:
            return cls(None, None, None, None)
        half = max(limit // 2, 1)
        return cls(limit, half, half, half)


UNLIMITED = Limits(None, None, None, None)


class AbnormalPools(NamedTuple):
    """The patches of one abnormal reference.

    ``marked`` ones are abnormal, those ``away`` from them and not next to one are normal, and so are all that are
    ``unmarked``. ``localized`` are references whose mask was given and is not the full image: they alone tell where a
    defect and its surroundings are.
    """

    marked: Pool
    away: Pool
    unmarked: Pool
    localized: bool


class ReferencePatches(NamedTuple):
    """Patch tokens of a set of references, all that the rules read.

    ``normal`` has a pool for each normal reference. With ``context`` the surroundings of defects count as normal.
    ``shared`` lets residual mining put the marked patches of several images on one grid, which the published code's
    positions (Q2, Q3) do not allow.
    """

    normal: tuple[Pool, ...]
    abnormal: tuple[AbnormalPools, ...]
    grid: tuple[int, int]
    width: int
    context: bool
    limits: Limits = UNLIMITED
    shared: bool = True

    @classmethod
    def of(
        cls,
        normal: Sequence[Floats],
        abnormal: Floats,
        patch_mask: Floats,
        localized: NDArray[np.bool_],
        grid: tuple[int, int],
        context: bool,
        limits: Limits = UNLIMITED,
        shared: bool = True,
        keys: Sequence[str] = (),
    ) -> ReferencePatches:
        """Pools of arrays: patches (P, C) of each normal reference, (a, M, C) of abnormal ones marked 0/1 (a, M).

        ``keys`` of all of them, normal ones first, are made of their images and masks (``pools.ArrayPool``).
        """
        keys = keys or [""] * (len(normal) + len(abnormal))
        given = zip(abnormal, patch_mask, localized.tolist(), keys[len(normal) :], strict=True)
        pools = tuple(abnormal_pools(tokens, marked, known, grid, key) for tokens, marked, known, key in given)
        known = tuple(ArrayPool(tokens, key=key) for tokens, key in zip(normal, keys, strict=False))
        return cls(known, pools, grid, abnormal.shape[-1], context, limits, shared)


def abnormal_pools(
    tokens: Floats, marked: Floats, localized: bool, grid: tuple[int, int], key: str = ""
) -> AbnormalPools:
    """Take the patches (M, C) of an abnormal reference apart by which of them are abnormal, 0/1 (M,)."""
    apart, normal = take_apart(tokens, marked, grid, key), np.asarray(marked) <= 0
    return AbnormalPools(
        apart["marked"], apart["away"], ArrayPool(tokens[normal], np.flatnonzero(normal), key), localized
    )


def take_apart(tokens: Floats, marked: Floats, grid: tuple[int, int], key: str = "") -> dict[str, ArrayPool]:
    """Patches (M, C) that are ``marked`` (M,) as abnormal, ``near`` one of these, and ``away`` from them."""
    abnormal, away = np.asarray(marked) > 0, away_from_mask(marked, grid)
    parts = {"marked": abnormal, "near": ~(abnormal | away), "away": away}
    return {name: ArrayPool(tokens[part], np.flatnonzero(part), key) for name, part in parts.items()}


class Dimensions(NamedTuple):
    """Width C of a token and number Q of proxies."""

    width: int
    proxies: int


@dataclass(frozen=True)
class ReferenceTensor:
    """One tensor of a set of references: its name, its shape (None: grows with the references), the rule that makes it.

    Without a rule it is made by residual mining, of all the others.
    """

    name: str
    shape: Callable[[Dimensions], tuple[int | None, ...]]
    rule: Callable[[ReferencePatches], NDArray[Any]] | None

    @property
    def grows(self) -> bool:
        """Whether its first side depends on the references."""
        return self.shape(Dimensions(1, 1))[0] is None

    def empty(self, sizes: Dimensions) -> Floats:
        """Zeros of its shape, none where it grows."""
        return np.zeros([side or 0 for side in self.shape(sizes)], np.float32)


def normal_bank(patches: ReferencePatches) -> Floats:
    """Patches (K, C) that count as normal: those of the normal references, then ``surroundings``.

    Without normal references, the patches of abnormal ones that are not abnormal (section 10). EdgeError, a ValueError,
    if none is left.
    """
    limits = patches.limits
    if patches.normal:
        return np.concatenate([heads(patches.normal, limits.normal, patches.width), surroundings(patches)])
    if not patches.abnormal:
        raise EdgeError("found no references at all, expected at least one normal or abnormal image: add one")
    bank = heads([one.unmarked for one in patches.abnormal], limits.normal, patches.width)
    if not len(bank):
        raise EdgeError(
            "found references without a single normal patch, expected at least one: add a normal reference, or a mask "
            "that does not cover the full image"
        )
    return bank


def normal_owners(patches: ReferencePatches) -> NDArray[np.int64]:
    """Whose the first patches of the normal bank are: the number of the normal reference, (P,)."""
    kept = counts(patches.normal, patches.limits.normal)
    return np.repeat(np.arange(len(kept)), kept)


def surroundings(patches: ReferencePatches) -> Floats:
    """Patches of localized abnormal references away from their masks: normal too, with ``context``."""
    used = [one.away for one in patches.abnormal if patches.context and patches.normal and one.localized]
    return heads(used, patches.limits.surroundings, patches.width)


def defect_bank(patches: ReferencePatches) -> Floats:
    """Patches (D, C) of known defects; without any, a zero one, which is as like any patch as any other."""
    known = [one.marked for one in patches.abnormal if one.localized]
    bank = heads(known, patches.limits.defects, patches.width)
    return bank if len(bank) else np.zeros((1, patches.width), np.float32)


def reference_kinds(patches: ReferencePatches) -> Floats:
    """0/1 (2,): are there normal, and abnormal references."""
    return np.array([len(patches.normal) > 0, len(patches.abnormal) > 0], np.float32)


TENSORS: list[ReferenceTensor] = [
    ReferenceTensor("normal_bank", lambda sizes: (None, sizes.width), normal_bank),
    ReferenceTensor("residual_proxies", lambda sizes: (sizes.proxies, sizes.width), None),
    ReferenceTensor("defect_bank", lambda sizes: (None, sizes.width), defect_bank),
    ReferenceTensor("reference_kinds", lambda sizes: (2,), reference_kinds),
]


def assemble(patches: ReferencePatches) -> dict[str, Floats]:
    """Every tensor of these references that has a rule, by name."""
    return {
        tensor.name: np.ascontiguousarray(tensor.rule(patches), np.float32)
        for tensor in TENSORS
        if tensor.rule is not None
    }


class Mined(NamedTuple):
    """What residual mining reads: tokens (v, M, C), and which of them are abnormal, 0/1 (v, M)."""

    tokens: Floats
    patch_mask: Floats


def mined(patches: ReferencePatches) -> Mined:
    """The marked patches of all abnormal references, each at its place of a grid; the rest is zero and not looked at.

    Every reference has a grid of its own. More than ``MINED`` share ``MINED_TOGETHER``: a patch takes the first of them
    on which its place is free, and is left out where none is. Where they may not share, the first ``MINED_ALONE`` by
    key stand for all.
    """
    pools: list[Pool] = [one.marked for one in patches.abnormal]
    if not patches.shared and len(pools) > MINED_ALONE:
        pools = sorted(pools, key=lambda pool: pool.key)[:MINED_ALONE]
    few = len(pools) <= MINED or not patches.shared
    kept = counts(pools, None if few else patches.limits.mined)
    grids, cells = (len(pools) if few else MINED_TOGETHER), patches.grid[0] * patches.grid[1]
    tokens = np.zeros((grids, cells, patches.width), np.float32)
    marked = np.zeros((grids, cells), np.float32)
    order = [i for i in sorted(range(len(pools)), key=lambda i: pools[i].key) if kept[i]]
    if order:
        places = np.concatenate([pools[i].places(kept[i]) for i in order])
        grid = np.repeat(order, [kept[i] for i in order]) if few else _earlier(places)
        free = grid < grids
        tokens[grid[free], places[free]] = np.concatenate([pools[i].head(kept[i]) for i in order])[free]
        marked[grid[free], places[free]] = 1
    return Mined(tokens, marked)


def _earlier(places: NDArray[Any]) -> NDArray[np.intp]:
    """How many patches before each one (P,) have its place."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    count = np.empty(len(places), np.intp)
    count[order] = np.arange(len(places)) - np.searchsorted(ordered, ordered)
    return count
