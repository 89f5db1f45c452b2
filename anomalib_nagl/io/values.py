"""Which values an image may hold."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from anomalib_nagl.io.errors import EdgeError


def check_range(array: NDArray[Any], largest: int, source: str) -> None:
    """Raise EdgeError unless all values of an image are from 0 to the largest one of its type; NaN is refused too."""
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= largest):
        kind = "floats" if largest == 1 else "integers"
        raise EdgeError(
            f"found values from {low:.6g} to {high:.6g} in an image of {kind} ({source}), expected 0 to {largest}: "
            "scale it, or store it with 8 or 16 bits"
        )
