"""Sums over patches from which mean and covariance follow: those of two sets are added, and taken away again."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.patch_masks import l2_normalize

Doubles = NDArray[np.float64]


class Moments(NamedTuple):
    """Number of unit tokens, their sum (C,), and the sum of their outer products (C, C), in float64."""

    number: int
    total: Doubles
    outer: Doubles

    @classmethod
    def of(cls, tokens: NDArray[np.float32]) -> Moments:
        """Sums over tokens (P, C), each scaled to length 1."""
        unit = l2_normalize(np.asarray(tokens, np.float64))
        return cls(len(unit), unit.sum(axis=0), unit.T @ unit)

    @classmethod
    def none(cls, width: int) -> Moments:
        """Sums over no tokens."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @property
    def mean(self) -> Doubles:
        """Mean (C,); zeros of no tokens."""
        return self.total / max(self.number, 1)

    @property
    def covariance(self) -> Doubles:
        """Covariance (C, C) about the mean; zeros of no tokens."""
        return self.outer / max(self.number, 1) - np.outer(self.mean, self.mean)

    def plus(self, other: Moments) -> Moments:
        """Sums over both sets."""
        return Moments(self.number + other.number, self.total + other.total, self.outer + other.outer)

    def minus(self, other: Moments) -> Moments:
        """Sums without those of a part."""
        return Moments(self.number - other.number, self.total - other.total, self.outer - other.outer)

    @classmethod
    def sum(cls, parts: Iterable[Moments], width: int) -> Moments:
        """Sums over several sets."""
        return reduce(cls.plus, parts, cls.none(width))

    def pack(self) -> bytes:
        """As bytes, with a checksum: the outer products by their upper triangle."""
        upper = self.outer[np.triu_indices(len(self.total))]
        data = np.concatenate([[float(self.number)], self.total, upper]).astype("<f8").tobytes()
        return data + zlib.crc32(data).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: object, width: int) -> Moments | None:
        """From bytes; None for anything that ``pack`` would not have written."""
        rows, columns = np.triu_indices(width)
        if not isinstance(data, bytes) or len(data) != 8 * (1 + width + len(rows)) + 4:
            return None
        if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            return None
        values = np.frombuffer(data[:-4], "<f8").astype(np.float64)
        if not np.isfinite(values).all() or values[0] < 0 or values[0] % 1:
            return None
        outer = np.zeros((width, width))
        outer[rows, columns] = outer[columns, rows] = values[1 + width :]
        return cls(int(values[0]), values[1 : 1 + width].copy(), outer)
