"""What to tell people about the number of their references."""

from __future__ import annotations

ENOUGH_NORMAL = 4  # fewer say too little of how much good images differ from each other


def threshold_advice(normal: int) -> str | None:
    """Say that thresholds from so few normal references are a guess, and what to add; None where there are enough."""
    if normal >= ENOUGH_NORMAL:
        return None
    found = f"{normal} normal reference{'s' * (normal != 1)}"
    return (
        f"The threshold is a guess: it rests on {found}, expected at least {ENOUGH_NORMAL} to know how good images "
        f"differ: add {ENOUGH_NORMAL - normal} or more good images"
    )
