"""What a bank keeps of its own computations: residual proxies, valid for the revision they were mined for."""

from __future__ import annotations

import hashlib
import json
import sqlite3

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.border import LARGEST

PROXIES = "residual_proxies"


def write(connection: sqlite3.Connection, revision: int, proxies: NDArray[np.float32] | None) -> None:
    """Keep residual proxies (Q, C) in place of older ones."""
    if proxies is None:
        return
    data = np.ascontiguousarray(proxies, "<f4").tobytes()
    row = (PROXIES, revision, json.dumps(list(proxies.shape)), hashlib.sha256(data).hexdigest(), data)
    connection.execute("INSERT OR REPLACE INTO derived VALUES (?, ?, ?, ?, ?)", row)


def read(connection: sqlite3.Connection, revision: int, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Residual proxies of a revision; None where there are none, or not as mining makes them: it does so again."""
    row = connection.execute("SELECT revision, shape, sha256, data FROM derived WHERE name = ?", (PROXIES,)).fetchone()
    if row is None or row[0] != revision or row[1] != json.dumps(list(shape)):
        return None
    data = row[3]
    if not isinstance(data, bytes) or len(data) != 4 * shape[0] * shape[1]:
        return None
    if hashlib.sha256(data).hexdigest() != row[2]:
        return None
    proxies = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    return proxies if np.isfinite(proxies).all() and np.abs(proxies).max(initial=0) <= LARGEST else None
