"""The patches of an abnormal reference, taken apart by the part that they play."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.patch_masks import away_from_mask
from anomalib_nagl.bank.pools import ArrayPool, Pool
from anomalib_nagl.bank.views import origins

Floats = NDArray[np.float32]


class AbnormalPools(NamedTuple):
    """The patches of one abnormal reference.

    ``marked`` ones are abnormal, those ``away`` from them and not next to one are normal, and so are all that are
    ``unmarked``. ``localized`` are references whose mask was given and is not the full image: they alone tell where a
    defect and its surroundings are. Patches of all views are numbered through, one view after the other.
    """

    marked: Pool
    away: Pool
    unmarked: Pool
    localized: bool

    @property
    def shown(self) -> bool:
        """Whether some patches are known or guessed to be the defect: not where all of the image are."""
        return len(self.marked) > 0 and len(self.unmarked) > 0


def abnormal_pools(
    tokens: Floats,
    marked: Floats,
    localized: bool,
    grid: tuple[int, int],
    key: str = "",
    views: tuple[int, ...] = (0,),
    keep: NDArray[np.bool_] | None = None,
) -> AbnormalPools:
    """Take the patches (V * M, C) of an abnormal reference apart by which of them are abnormal, 0/1 (M,).

    Those that are not to ``keep`` (V * M,) are left out.
    """
    apart, normal = take_apart(tokens, marked, grid, key, views), (np.asarray(marked) <= 0)[origins(grid, views)]
    unmarked = ArrayPool(tokens[normal], np.flatnonzero(normal), key)
    return AbnormalPools(apart["marked"].only(keep), apart["away"].only(keep), unmarked.only(keep), localized)


def take_apart(
    tokens: Floats,
    marked: Floats,
    grid: tuple[int, int],
    key: str = "",
    views: tuple[int, ...] = (0,),
    known: NDArray[np.bool_] | None = None,
) -> dict[str, ArrayPool]:
    """Patches (V * M, C) of all views that are abnormal, ``near`` one of these, and ``away`` from them.

    ``marked`` (M,) are the abnormal ones of the image as it is. Those that are not ``known`` (V * M,) are left out.
    """
    where = origins(grid, views)
    abnormal, away = (np.asarray(marked) > 0)[where], away_from_mask(marked, grid)[where]
    parts = {"marked": abnormal, "near": ~(abnormal | away), "away": away}
    if known is not None:
        parts = {name: part & known for name, part in parts.items()}
    return {name: ArrayPool(tokens[part], np.flatnonzero(part), key) for name, part in parts.items()}
