"""Pools of patches, one for each image, of which a bounded number is compared with.

The patches of an image are put in order by themselves, the most telling first, and every image gives as many as the
limit allows. So what is kept depends on the images alone, not on the order in which they came, one more or one less is
cheap at any number of them, and whatever was forgotten is as if it had never been there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_AT_ONCE = 4096  # patches whose likenesses are computed in one step: 64 MB


class Pool(Protocol):
    """Patches of one image that play one part, those first that tell most."""

    @property
    def key(self) -> str:
        """Made of the content alone: who comes first where not all can be served."""

    def __len__(self) -> int:
        """Number of patches."""

    def head(self, count: int) -> Floats:
        """The first ``count`` patch tokens (count, C)."""

    def places(self, count: int) -> NDArray[Any]:
        """Where on the grid each of them lies, (count,)."""


class ArrayPool:
    """A pool of tokens (P, C) in memory that lie at ``places`` (P,) of the grid."""

    def __init__(self, tokens: Floats, places: NDArray[Any] | None = None) -> None:
        self._tokens = np.ascontiguousarray(tokens, np.float32)
        self._places = np.arange(len(tokens)) if places is None else places

    def __len__(self) -> int:
        """Number of patches."""
        return len(self._tokens)

    @cached_property
    def key(self) -> str:
        """SHA-256 of places and tokens."""
        return content_key(self._tokens, self._places)

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Indices of the patches, the most telling first."""
        return farthest_first(self._tokens)

    def head(self, count: int) -> Floats:
        """The first ``count`` tokens, as they lie on the grid."""
        return self._tokens if count >= len(self) else self._tokens[np.sort(self.order[:count])]

    def places(self, count: int) -> NDArray[Any]:
        """Their places."""
        return self._places if count >= len(self) else self._places[np.sort(self.order[:count])]


def content_key(tokens: Floats, places: NDArray[Any]) -> str:
    """A name for patches that is the same wherever they come from."""
    digest = hashlib.sha256(np.ascontiguousarray(places, "<u2").tobytes())
    digest.update(np.ascontiguousarray(tokens, "<f4").tobytes())
    return digest.hexdigest()


def farthest_first(tokens: Floats) -> NDArray[np.intp]:
    """Order patches (P, C): first the one most like all others, then always the one least like those before it.

    Likeness is the cosine. Any beginning of that order covers the image about as well as so many patches can (Gonzalez
    1985); the same patches give the same order.
    """
    if not len(tokens):
        return np.empty(0, np.intp)
    length = np.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens / np.maximum(length, np.float32(1e-12))
    alike = unit @ unit.T if len(unit) <= _AT_ONCE else None
    order = np.empty(len(tokens), np.intp)
    order[0] = int((unit @ unit.sum(axis=0)).argmax())
    nearest = np.full(len(tokens), -np.inf, np.float32)
    for step in range(1, len(tokens)):
        chosen = order[step - 1]
        np.maximum(nearest, unit @ unit[chosen] if alike is None else alike[chosen], out=nearest)
        nearest[chosen] = np.inf
        order[step] = int(nearest.argmin())
    return order


def shares(pools: Sequence[Pool], limit: int | None) -> list[int]:
    """How many patches of each pool are kept, ``limit`` of them at most.

    All get the same number, the small ones all that they have; what is left over goes one by one by their keys.
    """
    sizes = np.array([len(pool) for pool in pools], np.int64)
    if limit is None or sizes.sum() <= limit:
        return [int(size) for size in sizes]
    low, high = 0, int(sizes.max())  # the highest level that fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= limit else (low, middle)
    kept = np.minimum(sizes, low)
    wanting = sorted((pools[i].key, i) for i in np.flatnonzero(sizes > low).tolist())
    for _, i in wanting[: int(limit - kept.sum())]:
        kept[i] += 1
    return [int(count) for count in kept]


def heads(pools: Sequence[Pool], limit: int | None, width: int) -> Floats:
    """What is kept of all pools, one after the other: (K, C)."""
    parts = [pool.head(count) for pool, count in zip(pools, shares(pools, limit), strict=True)]
    return np.concatenate([np.empty((0, width), np.float32), *parts])
