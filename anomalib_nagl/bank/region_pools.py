"""Pools of a bank as a region of interest leaves them: fewer patches, ranked among themselves."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.interest import Booleans
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.pool_rows import SPARE, Head, PoolReader, StoredPool
from anomalib_nagl.bank.pools import ArrayPool, Floats
from anomalib_nagl.bank.reference import WHOLE
from anomalib_nagl.io.errors import EdgeError


class RegionPool:
    """The patches of a stored pool that lie in a region.

    What was ranked with patches that are left out now is ranked anew, since these covered some of the others. No more
    tokens are kept than were asked for. ``keep`` (V * M,) are the places in the region.
    """

    def __init__(self, pool: StoredPool, keep: Booleans, reader: PoolReader) -> None:
        self._pool, self._keep = pool, keep
        self.row, self.key = pool.row, pool.key
        part = self._part(reader)
        ranked = part.ranking.order
        self._order = np.concatenate([ranked, np.setdiff1d(np.arange(len(part)), ranked)])
        self._gain, self._head = part.gain, Head(part.head(0), part.places(0))

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._order)

    @property
    def gain(self) -> Floats:
        """What each patch adds to those before it."""
        return self._gain

    def head(self, count: int) -> Floats:
        """The first tokens."""
        return self._first(count).tokens

    def places(self, count: int) -> NDArray[Any]:
        """Their places."""
        return self._first(count).places

    @property
    def moments(self) -> Moments:
        """Sums over all its patches."""
        part = self._part()
        return Moments.of(part.head(len(part)))

    def _first(self, count: int) -> Head:
        if len(self._head.tokens) < min(count, len(self)):
            part, wanted = self._part(), self._order[: count + SPARE]
            self._head = Head(part.head(len(part))[wanted], part.places(len(part))[wanted])
        return Head(self._head.tokens[:count], self._head.places[:count])

    def _part(self, reader: PoolReader | None = None) -> ArrayPool:
        """All of its patches, as they lie on the grid."""
        return self._pool.read(reader).only(self._keep)


class RegionPools:
    """Pools as a region leaves them, ranked once as long as it is the same."""

    def __init__(self, width: int, cells: int) -> None:
        self._width, self._cells = width, cells
        self._last: tuple[bytes, dict[int, RegionPool]] = (b"", {})

    def of(
        self, connection: sqlite3.Connection, found: Mapping[str, Mapping[str, StoredPool]], keep: Booleans
    ) -> dict[str, dict[str, RegionPool]]:
        """Pools by the uid of their reference and by role, as ``reference_rows.pools_of`` finds them."""
        region = np.packbits(keep).tobytes()
        known = self._last[1] if self._last[0] == region else {}
        reader = PoolReader(lambda: contextlib.nullcontext(connection), self._width, self._cells)
        with reader:
            view = {
                uid: {role: known.get(pool.row) or RegionPool(pool, keep, reader) for role, pool in roles.items()}
                for uid, roles in found.items()
            }
        # Replaced and never changed: another thread may be reading.
        self._last = region, {pool.row: pool for roles in view.values() for pool in roles.values()}
        return view


def check_inside(connection: sqlite3.Connection, keep: Booleans) -> None:
    """Raise EdgeError unless a normal patch of the active references lies in a region."""
    rows = connection.execute(
        "SELECT places FROM pool JOIN reference ON reference.id = pool.reference "
        "WHERE active AND NOT removed AND role != 'marked' AND area = ?", (WHOLE,),
    )  # fmt: skip
    for (places,) in rows:
        there = np.frombuffer(places if isinstance(places, bytes) else b"", "<u2")
        if keep[there[there < len(keep)]].any():
            return
    raise EdgeError(
        "found no normal patch of a reference in the region, expected some to compare with: draw a larger region, or "
        "add a normal reference that shows it"
    )
