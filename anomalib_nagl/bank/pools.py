"""Pools of patches, one for each image, of which a bounded number is compared with.

The patches of an image are ranked by themselves, the most telling first, and every image gives those by which all
are covered equally closely. So what is kept depends on the images alone, not on the order in which they came, one more
or one less is cheap at any number of them, and whatever was forgotten is as if it had never been there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.bank.selection import Ranking, rank, shares

Floats = NDArray[np.float32]
# Of an image with more patches than this, a large one in windows, only so many are ranked: no more of one image is
# compared with, and the time to rank them grows with the product of both.
LARGE, RANKED = 16384, 4096


class Pool(Protocol):
    """Patches of one image that play one part, those first that tell most."""

    @property
    def key(self) -> str:
        """Made of the content alone: who comes first where not all can be served."""

    @property
    def gain(self) -> Floats:
        """What each patch adds to those before it (``selection.Ranking``)."""

    @property
    def moments(self) -> Moments:
        """Sums over all its patches."""

    def __len__(self) -> int:
        """Number of patches."""

    def head(self, count: int) -> Floats:
        """The first ``count`` patch tokens (count, C)."""

    def places(self, count: int) -> NDArray[Any]:
        """Where on the grid each of them lies, (count,)."""


class ArrayPool:
    """A pool of tokens (P, C) in memory that lie at ``places`` (P,) of the grid.

    ``key`` is made of the image and its mask where these are known: tokens differ a little between runtimes.
    """

    def __init__(self, tokens: Floats, places: NDArray[Any] | None = None, key: str = "") -> None:
        self._tokens, self._given_key = np.ascontiguousarray(tokens, np.float32), key
        self._places = np.arange(len(tokens)) if places is None else places

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._tokens)

    @cached_property
    def key(self) -> str:
        """What was given, or else SHA-256 of places and tokens."""
        return self._given_key or content_key(self._tokens, self._places)

    @cached_property
    def ranking(self) -> Ranking:
        """Its patches, the one that adds most first."""
        if len(self) <= LARGE:
            return rank(self._tokens, in_order=True)
        first = rank(self._tokens, RANKED, in_order=True)
        rest = np.setdiff1d(np.arange(len(self)), first.order)
        return Ranking(np.append(first.order, rest), np.append(first.gain, np.zeros(len(rest), np.float32)))

    @cached_property
    def moments(self) -> Moments:
        """Sums over all patches."""
        return Moments.of(self._tokens)

    def only(self, keep: NDArray[np.bool_] | None) -> ArrayPool:
        """The patches at places of the grid that are kept (V * M,), ranked among themselves; None keeps all."""
        if keep is None:
            return self
        there = keep[self._places]
        return ArrayPool(self._tokens[there], self._places[there], self.key)

    @property
    def gain(self) -> Floats:
        """What each patch adds to those before it."""
        return self.ranking.gain

    def head(self, count: int) -> Floats:
        """The first ``count`` tokens, as they lie on the grid."""
        return self._tokens if count >= len(self) else self._tokens[np.sort(self.ranking.order[:count])]

    def places(self, count: int) -> NDArray[Any]:
        """Their places."""
        return self._places if count >= len(self) else self._places[np.sort(self.ranking.order[:count])]


def content_key(tokens: Floats, places: NDArray[Any]) -> str:
    """A name for patches that is the same wherever they come from."""
    digest = hashlib.sha256(np.ascontiguousarray(places, "<u2").tobytes())
    digest.update(np.ascontiguousarray(tokens, "<f4").tobytes())
    return digest.hexdigest()


def counts(pools: Sequence[Pool], limit: int | None) -> list[int]:
    """How many patches of each pool are kept, ``limit`` of them at most (``selection.shares``)."""
    sizes = [len(pool) for pool in pools]
    if limit is None or sum(sizes) <= limit:
        return sizes
    return shares([pool.gain for pool in pools], [pool.key for pool in pools], limit)


def heads(pools: Sequence[Pool], limit: int | None, width: int) -> Floats:
    """What is kept of all pools, one after the other: (K, C)."""
    parts = [pool.head(count) for pool, count in zip(pools, counts(pools, limit), strict=True) if count]
    return np.concatenate([np.empty((0, width), np.float32), *parts])
