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

from anomalib_nagl.bank.abnormal import AbnormalPools, abnormal_pools
from anomalib_nagl.bank.discriminant import defect_share, directions, inner_spread, spread
from anomalib_nagl.bank.interest import ALL, inside_patches, inside_views
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.pools import ArrayPool, Pool, counts, heads
from anomalib_nagl.io.errors import EdgeError

Floats = NDArray[np.float32]
FEWEST, SAMPLED = 16, 1024  # patches around defects that tell a spread: at least, and at most
BANK_LIMIT = 1024  # patches of each kind that a query is compared with, see Limits


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


class ReferencePatches(NamedTuple):
    """Patch tokens of a set of references, all that the rules read.

    ``normal`` has a pool for each normal reference. With ``context`` the surroundings of defects count as normal.
    ``shared`` lets residual mining put the marked patches of several images on one grid, which the published code's
    positions (Q2, Q3) do not allow. ``views`` are those that every pool has (``bank.views``). ``sums``
    adds up those of pools where they are kept, under a name for each use; they are computed otherwise. Pools hold what
    lies in the ``region`` of interest alone (``bank.interest``), and defects outside it are none.
    """

    normal: tuple[Pool, ...]
    abnormal: tuple[AbnormalPools, ...]
    grid: tuple[int, int]
    width: int
    context: bool
    limits: Limits = UNLIMITED
    shared: bool = True
    views: tuple[int, ...] = (0,)
    sums: Callable[[str, Sequence[Pool]], Moments] | None = None
    region: Floats = ALL

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
        views: tuple[int, ...] = (0,),
        region: Floats = ALL,
    ) -> ReferencePatches:
        """Pools of arrays: patches (V * M, C) of each normal reference, (a, V * M, C) of abnormal ones.

        Of these, ``patch_mask`` (a, M) marks with 0/1 which are abnormal in the image as it is. ``keys`` of all of
        them, normal ones first, are made of their images and masks (``pools.ArrayPool``).
        """
        keys = keys or [""] * (len(normal) + len(abnormal))
        keep = inside_views(region, grid, views)
        given = zip(abnormal, patch_mask, localized.tolist(), keys[len(normal) :], strict=True)
        every = (abnormal_pools(tokens, mask, known, grid, key, views, keep) for tokens, mask, known, key in given)
        pools = tuple(one for one in every if keep is None or len(one.marked))
        known = tuple(ArrayPool(tokens, key=key).only(keep) for tokens, key in zip(normal, keys, strict=False))
        return cls(known, pools, grid, abnormal.shape[-1], context, limits, shared, views, region=region)

    @property
    def cells(self) -> int:
        """Number of patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which patches (M,) of an image lie in the region of interest."""
        return inside_patches(self.region, self.grid)


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

    Without normal references, those of abnormal ones that are not abnormal (section 10). EdgeError if none is left.
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


def normal_mean(patches: ReferencePatches) -> Floats:
    """Mean (C,) of all unit patches that count as normal, kept or not."""
    return background(patches).mean.astype(np.float32)


def defect_directions(patches: ReferencePatches) -> Floats:
    """Where known defects lie, seen from what is normal (1, C): see ``discriminant.directions``; zero without any.

    What a deviation is worth is told by the surroundings of defects, compared with the normal images.
    """
    known = [one.marked for one in patches.abnormal if one.shown]
    if not known:
        return np.zeros((1, patches.width), np.float32)
    return directions(background(patches), [_added(patches, "defects", known).mean], deviation_spread(patches))


def defect_weight(patches: ReferencePatches) -> Floats:
    """Weight (1,) of the similarity to the nearest known defect (``discriminant.defect_share``); 0 without any."""
    known = [one.marked for one in patches.abnormal if one.localized]
    bank = heads(known, patches.limits.defects, patches.width)
    if not len(bank):
        return np.zeros(1, np.float32)
    around = _around(patches)
    around = around if len(around) >= FEWEST else normal_bank(patches)[:SAMPLED]
    return np.array([defect_share(deviation_spread(patches), spread(around, bank))], np.float32)


def deviation_spread(patches: ReferencePatches) -> float:
    """What a deviation from normal is worth on this part: how far deviations of normal patches are spread.

    Those of the surroundings of defects from the normal images or, where one of both is missing, those of normal
    patches from each other. It is told by what is compared with, a selection.
    """
    around, bank = _around(patches), heads(patches.normal, patches.limits.normal, patches.width)
    if len(bank) and len(around) >= FEWEST:
        return spread(around, bank)
    return inner_spread((bank if len(bank) else normal_bank(patches))[:SAMPLED])


def _around(patches: ReferencePatches) -> Floats:
    """Some of the surroundings of defects, and not always all: spreads need no more."""
    pools = [one.away for one in patches.abnormal if one.shown]
    limit = SAMPLED if patches.limits.surroundings is None else min(SAMPLED, patches.limits.surroundings)
    return heads(pools, limit, patches.width)


def background(patches: ReferencePatches) -> Moments:
    """Sums over all patches that count as normal, whatever of them is compared with.

    Normal references and the surroundings of localized defects; all that is unmarked where there are no normal ones.
    """
    pools = [one.unmarked for one in patches.abnormal]
    if patches.normal:
        around = [one.away for one in patches.abnormal if patches.context and one.localized]
        pools = [*patches.normal, *around]
    return _added(patches, "normal", pools)


def _added(patches: ReferencePatches, name: str, pools: Sequence[Pool]) -> Moments:
    if patches.sums is not None:
        return patches.sums(name, pools)
    return Moments.sum((pool.moments for pool in pools), patches.width)


def reference_kinds(patches: ReferencePatches) -> Floats:
    """0/1 (2,): are there normal, and abnormal references."""
    return np.array([len(patches.normal) > 0, len(patches.abnormal) > 0], np.float32)


TENSORS: list[ReferenceTensor] = [
    ReferenceTensor("normal_bank", lambda sizes: (None, sizes.width), normal_bank),
    ReferenceTensor("residual_proxies", lambda sizes: (sizes.proxies, sizes.width), None),
    ReferenceTensor("defect_bank", lambda sizes: (None, sizes.width), defect_bank),
    ReferenceTensor("defect_directions", lambda sizes: (1, sizes.width), defect_directions),
    ReferenceTensor("defect_weight", lambda sizes: (1,), defect_weight),
    ReferenceTensor("normal_mean", lambda sizes: (sizes.width,), normal_mean),
    ReferenceTensor("reference_kinds", lambda sizes: (2,), reference_kinds),
    ReferenceTensor("region", lambda sizes: (None, None), lambda patches: patches.region),
]


def assemble(patches: ReferencePatches) -> dict[str, Floats]:
    """Every tensor of these references that has a rule, by name."""
    return {
        tensor.name: np.ascontiguousarray(tensor.rule(patches), np.float32)
        for tensor in TENSORS
        if tensor.rule is not None
    }
