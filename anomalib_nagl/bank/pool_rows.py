"""Pools of patches in the file of a bank: only what a query is compared with is read, and checked as it is read."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.border import check_gains, check_places, check_tokens
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.pools import ArrayPool, Floats, Pool
from anomalib_nagl.io.errors import EdgeError

BLOCK = 16  # patches that share a checksum
_CHANGED = (
    "found patch tokens in the reference bank that are not as they were written, expected them unchanged: restore the "
    "file from a copy"
)
_WHERE = "the reference bank"
SPARE = 4  # patches read beyond those asked for: after the next lesson it may be one more


class Head(NamedTuple):
    """The first patches of a pool: tokens (P, C), and their places on the grid (P,)."""

    tokens: Floats
    places: NDArray[Any]


class _Held(threading.local):
    """The connection that a thread keeps open: one that nobody closes would lock all writers out."""

    depth = 0
    connection: sqlite3.Connection | None = None
    context: AbstractContextManager[sqlite3.Connection]


class PoolReader:
    """Reads the first patches of pools and keeps them: rows of pools are never changed.

    ``connect`` opens the bank for reading; tokens have a ``width``, and their grid has so many ``cells``. What is kept
    of each pool is little more than what was asked for last.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[sqlite3.Connection]], width: int, cells: int
    ) -> None:
        self._connect, self._width, self._cells = connect, width, cells
        self._kept: dict[int, Head] = {}
        self._gains: dict[int, Floats] = {}
        self._held = _Held()

    @property
    def _open(self) -> sqlite3.Connection | None:
        return self._held.connection

    def __enter__(self) -> PoolReader:
        """Keep one connection for many reads of this thread; others have their own."""
        held = self._held
        if held.depth == 0:
            held.context = self._connect()
            held.connection = held.context.__enter__()
        held.depth += 1
        return self

    def __exit__(self, *error: Any) -> None:
        """Close it, unless it was kept before."""
        held = self._held
        held.depth -= 1
        if held.depth == 0:
            held.connection = None
            held.context.__exit__(*error)

    @contextlib.contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """The connection that this thread keeps, or one for now.

        A second one beside it would wait for a writer that waits for the first to close.
        """
        with self:
            assert self._open is not None
            yield self._open

    def head(self, pool: StoredPool, count: int) -> Head:
        """The first ``count`` patches of a pool; EdgeError if they are not what was written."""
        kept = self._kept.get(pool.row)
        wanted = min(count + SPARE, len(pool))
        if kept is None or len(kept.tokens) < count or len(kept.tokens) > 2 * wanted:
            if kept is None or len(kept.tokens) < count:
                kept = self._read(pool, wanted)
            self._kept[pool.row] = kept = Head(kept.tokens[:wanted].copy(), kept.places[:wanted].copy())
        return Head(kept.tokens[:count], kept.places[:count])

    def gain(self, pool: StoredPool) -> Floats:
        """What each patch of a pool adds to those before it."""
        if pool.row not in self._gains:
            if self._open is None:
                with self:
                    return self.gain(pool)
            found = self._open.execute("SELECT gains, checks FROM pool WHERE id = ?", (pool.row,)).fetchone()
            gains, checks = (_bytes(part) for part in found or (b"", b""))
            own = checks[-(-len(pool) // BLOCK) * 4 :]  # of banks that were written before there was one, nothing
            if len(gains) != 4 * len(pool) or (own and own != _checksum(gains)):
                raise EdgeError(_CHANGED)
            gain = np.frombuffer(gains, "<f4").astype(np.float32)
            check_gains(gain, _WHERE)
            self._gains[pool.row] = gain
        return self._gains[pool.row]

    def whole(self, pool: StoredPool) -> Head:
        """All patches of a pool, of which none is kept."""
        return self._read(pool, len(pool))

    def forget(self, rows: set[int]) -> None:
        """Keep nothing of pools but these."""
        self._kept = {row: head for row, head in self._kept.items() if row in rows}
        self._gains = {row: gain for row, gain in self._gains.items() if row in rows}

    def _read(self, pool: StoredPool, count: int) -> Head:
        if self._open is None:
            with self:
                return self._read(pool, count)
        rows = min(-(-count // BLOCK) * BLOCK, len(pool))
        found = self._open.execute(
            "SELECT substr(tokens, 1, ?), substr(places, 1, ?), checks FROM pool WHERE id = ?",
            (rows * self._width * 4, rows * 2, pool.row),
        ).fetchone()
        tokens, places, checks = (_bytes(part) for part in found or (b"", b"", b""))
        whole = (len(tokens), len(places)) == (rows * self._width * 4, rows * 2)
        expected = checksums(tokens, places, rows) if whole else b""
        if not whole or expected != checks[: len(expected)]:
            raise EdgeError(_CHANGED)
        array = np.frombuffer(tokens, "<f4").reshape(rows, self._width).astype(np.float32)
        found_places = np.frombuffer(places, "<u2").astype(np.intp)
        check_tokens(array, _WHERE)
        check_places(found_places, _WHERE, self._cells)
        return Head(array, found_places)


class StoredPool:
    """A pool whose patches are read when they are asked for."""

    def __init__(self, reader: PoolReader, row: int, size: int, key: str) -> None:
        if not isinstance(size, int) or size < 0 or not isinstance(key, str):  # a field may hold values of any type
            raise EdgeError(_CHANGED)
        self._reader, self.row, self._size, self.key = reader, row, size, key

    def __len__(self) -> int:
        """Number of patches."""
        return self._size

    @property
    def gain(self) -> Floats:
        """What each patch adds to those before it."""
        return self._reader.gain(self)

    def head(self, count: int) -> Floats:
        """The first tokens."""
        return self._reader.head(self, min(count, self._size)).tokens

    def places(self, count: int) -> NDArray[Any]:
        """Their places."""
        return self._reader.head(self, min(count, self._size)).places

    @property
    def moments(self) -> Moments:
        """Sums over all its patches."""
        return Moments.of(self.head(self._size))

    def whole(self) -> ArrayPool:
        """All patches, as they lie on the grid."""
        return self._on_grid(self._reader.head(self, self._size))

    def read(self, reader: PoolReader | None = None) -> ArrayPool:
        """The same, of which nothing is kept; through another reader than its own."""
        return self._on_grid((reader or self._reader).whole(self))

    def _on_grid(self, found: Head) -> ArrayPool:
        order = np.argsort(found.places)
        return ArrayPool(found.tokens[order], found.places[order], self.key)


class PartPool(Pool, Protocol):
    """A pool that is kept in a row of a bank, all of it or some."""

    row: int


class JoinedPool:
    """Two pools of one image as one."""

    def __init__(self, first: PartPool, then: PartPool) -> None:
        self._first, self._then = first, then
        self.key = first.key + then.key

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._first) + len(self._then)

    @property
    def gain(self) -> Floats:
        """What each patch adds to those before it: never more than the last of the first pool."""
        first, then = self._first.gain, self._then.gain
        return np.concatenate([first, np.minimum(then, first[-1:].min(initial=np.inf))])

    @property
    def moments(self) -> Moments:
        """Sums over both."""
        return self._first.moments.plus(self._then.moments)

    @property
    def parts(self) -> tuple[PartPool, PartPool]:
        """Both pools."""
        return self._first, self._then

    def head(self, count: int) -> Floats:
        """The first tokens."""
        return np.concatenate([self._first.head(count), self._then.head(max(count - len(self._first), 0))])

    def places(self, count: int) -> NDArray[Any]:
        """Their places."""
        return np.concatenate([self._first.places(count), self._then.places(max(count - len(self._first), 0))])


def insert_pool(connection: sqlite3.Connection, reference: int, area: str, role: str, pool: ArrayPool) -> int:
    """Write a pool, the most telling patches first; returns the number of its row."""
    tokens, places = pool.head(len(pool)), pool.places(len(pool))
    ranked = pool.ranking.order
    order = np.concatenate([ranked, np.setdiff1d(np.arange(len(pool)), ranked)])
    gain = np.zeros(len(pool), "<f4")
    gain[: len(ranked)] = pool.gain
    stored, where = tokens[order].astype("<f4").tobytes(), places[order].astype("<u2").tobytes()
    checks = checksums(stored, where, len(pool)) + _checksum(gain.tobytes())
    row = (reference, area, role, len(pool), pool.key, where, gain.tobytes(), checks, stored)
    columns = "reference, area, role, size, content, places, gains, checks, tokens"
    return int(
        connection.execute(f"INSERT INTO pool ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid or 0
    )


def _bytes(part: object) -> bytes:
    """Content of a field: SQLite has NULL for nothing, and its fields hold values of any type."""
    return part if isinstance(part, bytes) else b""


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def checksums(tokens: bytes, places: bytes, rows: int) -> bytes:
    """CRC-32 of each ``BLOCK`` of patches, which may be read without the others."""
    width, found = len(tokens) // max(rows, 1), b""
    for start in range(0, rows, BLOCK):
        stop = start + BLOCK
        value = zlib.crc32(tokens[start * width : stop * width], zlib.crc32(places[2 * start : 2 * stop]))
        found += value.to_bytes(4, "little")
    return found
