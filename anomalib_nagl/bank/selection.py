"""Which normal patches stand for all of them: few that lie near every other, whatever the order they came in.

Two ways, both functions of the content alone:

- ``select`` covers one set of patches by greedy farthest-point selection, as a coreset of PatchCore is chosen. Its cost
  grows with the set.
- ``Ranking`` and ``shares`` are for references that come and go. Every reference is ranked once, by itself; how many of
  its first patches count follows from the ranks of all. A lesson costs the ranking of one image and a pass over numbers
  that are there already, and gives what assembling all references anew gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

# Rows are compared as whole numbers of at most this length. No partial sum of a product exceeds its square (by
# Cauchy-Schwarz), and float32 holds every whole number up to that: products are exact, however a library adds them up.
LENGTH = 4096
POOL = 2048  # patches among which a round chooses
BLOCK = 4096  # patches that are compared at once


class Ranking(NamedTuple):
    """The patches of one reference, the one that adds most to those before it first.

    ``order`` (P,) are places in the given tokens; patches that add nothing are missing. ``gain`` (P,) is how unlike the
    earlier ones each is, in units of 1 - cosine, never rising; infinite for the first.
    """

    order: Indices
    gain: Floats


def select(tokens: Floats, limit: int) -> Indices:
    """Places of at most ``limit`` patches (N, C) that cover all of them, rising.

    Each is the one least like those chosen before it, by cosine; which of equals comes first follows from their
    bytes. So the same rows are kept in whatever order they come, up to rows of equal bytes. No more patches are
    kept than differ; all of them when there are no more than ``limit``. ValueError unless ``limit`` is positive.
    """
    if limit < 1:
        raise ValueError(f"found a limit of {limit} patches, expected at least 1: give a larger one, or none")
    if len(tokens) <= limit:
        return np.arange(len(tokens))
    return np.sort(rank(tokens, limit).order)


def rank(tokens: Floats, limit: int | None = None, in_order: bool = False) -> Ranking:
    """Rank patches (N, C), the first ``limit`` of them; the first one is that most like all of them.

    Which of equals comes first follows from their bytes or, ``in_order``, from their places: an image whose tokens
    differ in the last digits, as those of two runtimes do, is ranked alike.

    Greedy to the letter, though not one by one: a patch outside the ``POOL`` least covered ones cannot be the next as
    long as one inside is covered no better than all outside.
    """
    if not len(tokens):
        return Ranking(np.empty(0, np.int64), np.empty(0, np.float32))
    order = np.arange(len(tokens)) if in_order else np.argsort(content_keys(tokens), kind="stable")
    rows = _whole_numbers(tokens, order)
    own = np.einsum("nc,nc->n", rows, rows)
    wanted = len(rows) if limit is None else min(limit, len(rows))
    first = _central(rows)
    chosen, gains = [first], [float(own[first])]
    alike = rows @ rows[first]  # to the most similar chosen one
    while len(chosen) < wanted:
        gap = own - alike
        if gap.max(initial=0) <= 0:
            break
        found, gained = _round(rows, own, gap, wanted - len(chosen))
        chosen += found
        gains += gained
        if len(rows) <= POOL:  # a single round has chosen among all
            break
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            np.maximum(alike[block], (rows[block] @ rows[found].T).max(axis=1), out=alike[block])
    gain = np.array(gains, np.float32) / np.float32(LENGTH**2)
    gain[:1] = np.inf
    return Ranking(order[np.array(chosen, np.int64)], gain)


def _central(rows: Floats) -> int:
    """The row most like all of them together; sums of whole numbers in 64 bits are exact in any order."""
    total = rows.sum(axis=0, dtype=np.float64)
    return int((rows.astype(np.float64) @ total).argmax())


def _round(rows: Floats, own: Floats, gap: Floats, wanted: int) -> tuple[list[int], list[float]]:
    """The next patches and what each adds, as far as the least covered ones alone decide it; at least one."""
    pool = np.sort(np.argsort(-gap, kind="stable")[:POOL])
    bound = gap[pool].min() if len(rows) > POOL else np.float32(0)
    near = rows[pool]
    left = own[pool] - near @ near.T  # of each patch (a column), once that of a row is chosen
    gap = gap[pool]
    found: list[int] = []
    gained: list[float] = []
    while len(found) < wanted:
        place = int(gap.argmax())
        if gap[place] <= 0 or (found and gap[place] < bound):
            break
        found.append(int(pool[place]))
        gained.append(float(gap[place]))
        np.minimum(gap, left[place], out=gap)
    return found, gained


def shares(gains: Sequence[Floats], keys: Sequence[str], limit: int) -> list[int]:
    """How many of the first patches of each reference are kept, so that all are at most ``limit``.

    ``gains`` are those of their rankings. Those are kept that add most to their own reference: every reference is
    covered equally closely, and as closely as the limit allows. Of references that add equally much, the one whose key
    (a hash of its content) is smaller comes first, so that neither the order of the references matters nor how they
    came to be these.
    """
    counts = np.array([len(gain) for gain in gains], np.int64)
    if counts.sum() <= limit:
        return [int(count) for count in counts]
    gain = np.concatenate(gains)
    least = np.partition(gain, len(gain) - limit)[len(gain) - limit]
    kept, equal = (_count(found, counts) for found in (gain > least, gain == least))
    left = limit - int(kept.sum())
    for index in np.argsort(np.array(keys), kind="stable"):
        taken = min(left, int(equal[index]))
        kept[index] += taken
        left -= taken
    return [int(count) for count in kept]


def _count(found: NDArray[np.bool_], counts: Indices) -> Indices:
    """How many of consecutive groups of so many values are true."""
    ends = np.cumsum(counts)
    total = np.append(0, np.cumsum(found))
    return total[ends] - total[ends - counts]


def content_keys(tokens: Floats) -> NDArray[np.uint64]:
    """A number (N,) for each row (N, C) that depends on its bytes alone."""
    given = np.ascontiguousarray(tokens, np.float32)
    digests = [hashlib.blake2b(row.data, digest_size=8).digest() for row in given]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _whole_numbers(tokens: Floats, order: Indices) -> Floats:
    """Rows (N, C) in an order, scaled to one length below ``LENGTH`` and rounded; zero rows stay zero."""
    width = tokens.shape[-1]
    scale = LENGTH - 1 - width**0.5 / 2  # rounding lengthens a row by no more
    rows = np.empty(tokens.shape, np.float32)
    for start in range(0, len(order), BLOCK):
        part = tokens[order[start : start + BLOCK]]
        length = np.sqrt(np.square(part, dtype=np.float64).sum(axis=1, keepdims=True))
        rows[start : start + BLOCK] = np.rint(part * (scale / np.maximum(length, 1e-12)).astype(np.float32))
    return rows
