"""Sums over the patches of stored pools, and the running sum over all that count as normal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.pool_rows import JoinedPool, PartPool, StoredPool
from anomalib_nagl.bank.pools import Pool
from anomalib_nagl.bank.region_pools import RegionPool

# Not among the needed tables: what is missing, as in banks that were written before there was one, is computed anew.
TABLE = "CREATE TABLE IF NOT EXISTS moment (pool INTEGER PRIMARY KEY REFERENCES pool, data BLOB NOT NULL)"


def insert_moments(connection: sqlite3.Connection, row: int, moments: Moments) -> None:
    """Keep the sums of a pool that was just written."""
    connection.execute(TABLE)
    connection.execute("INSERT INTO moment VALUES (?, ?)", (row, moments.pack()))


def read_moments(connection: sqlite3.Connection, pool: PartPool, width: int) -> Moments:
    """The sums of a pool: as they were kept, or made of its tokens where they were not, not whole, or not of all."""
    if not isinstance(pool, StoredPool):
        return pool.moments
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'moment'").fetchone()
    found = known and connection.execute("SELECT data FROM moment WHERE pool = ?", (pool.row,)).fetchone()
    kept = Moments.unpack(found[0], width) if found else None
    return kept if kept is not None and kept.number == len(pool) else Moments.of(pool.head(len(pool)))


class RunningSums:
    """Sums over sets of pools, each made of the last one of its name.

    Rows of pools never change, so that one more or one less is one addition, whatever their number. ``connect`` opens
    the bank for reading; tokens have a ``width``.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[sqlite3.Connection]], width: int) -> None:
        self._connect, self._width = connect, width
        self._last: dict[str, _Sum] = {}

    def over(self, name: str, pools: Sequence[Pool]) -> Moments:
        """Sums over all patches of these stored pools."""
        wanted = {part.row: part for pool in pools for part in _stored(pool)}
        last = self._last.get(name)
        if last is None or len(last.pools.keys() - wanted.keys()) > len(wanted) // 2:
            last = _Sum({}, Moments.none(self._width))  # anew: no more work, and no rounding of what was there before
        found = last.moments
        new, gone = wanted.keys() - last.pools.keys(), last.pools.keys() - wanted.keys()
        if new or gone:
            with self._connect() as connection:
                for row in sorted(new):
                    found = found.plus(read_moments(connection, wanted[row], self._width))
                for row in sorted(gone):
                    found = found.minus(read_moments(connection, last.pools[row], self._width))
        self._last[name] = _Sum(wanted, found)
        return found


class _Sum(NamedTuple):
    """A set of pools by row, and the sums over it."""

    pools: dict[int, PartPool]
    moments: Moments


def _stored(pool: Pool) -> Sequence[PartPool]:
    if isinstance(pool, JoinedPool):
        return pool.parts
    if isinstance(pool, StoredPool | RegionPool):
        return (pool,)
    raise TypeError(f"found a pool of {type(pool).__name__}, expected one of the bank")
