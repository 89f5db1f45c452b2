"""What residual mining reads of a set of references: its abnormal patches, on grids."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.pools import Pool, counts

Floats = NDArray[np.float32]
MINED = 4  # images that residual mining reads each on a grid of its own
MINED_TOGETHER = 2  # grids on which the marked patches of more images are put together
MINED_ALONE = 32  # images that it reads where they cannot be put together


class Mined(NamedTuple):
    """What residual mining reads: tokens (v, M, C), and which of them are abnormal, 0/1 (v, M)."""

    tokens: Floats
    patch_mask: Floats


def mined(patches: ReferencePatches) -> Mined:
    """The marked patches of all abnormal references, each at its place of a grid; the rest is zero and not looked at.

    Views of an image count for nothing here: positions are those of the image as it is. Every reference has a grid of
    its own. More than ``MINED`` share ``MINED_TOGETHER``: a patch takes the first of them
    on which its place is free, and is left out where none is. Where they may not share, the first ``MINED_ALONE`` by
    key stand for all.
    """
    pools: list[Pool] = [one.marked for one in patches.abnormal]
    if not patches.shared and len(pools) > MINED_ALONE:
        pools = sorted(pools, key=lambda pool: pool.key)[:MINED_ALONE]
    few = len(pools) <= MINED or not patches.shared
    kept = counts(pools, None if few else patches.limits.mined)
    grids, cells = (len(pools) if few else MINED_TOGETHER), patches.cells
    tokens = np.zeros((grids, cells, patches.width), np.float32)
    marked = np.zeros((grids, cells), np.float32)
    order = [i for i in sorted(range(len(pools)), key=lambda i: pools[i].key) if kept[i]]
    if order:
        found = np.concatenate([pools[i].head(kept[i]) for i in order])
        places = np.concatenate([pools[i].places(kept[i]) for i in order])
        owner, upright = np.repeat(order, [kept[i] for i in order]), places < cells
        found, places, owner = found[upright], places[upright], owner[upright]
        grid = owner if few else _earlier(places)
        free = grid < grids
        tokens[grid[free], places[free]] = found[free]
        marked[grid[free], places[free]] = 1
    return Mined(tokens, marked)


def _earlier(places: NDArray[Any]) -> NDArray[np.intp]:
    """How many patches before each one (P,) have its place."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    count = np.empty(len(places), np.intp)
    count[order] = np.arange(len(places)) - np.searchsorted(ordered, ordered)
    return count
