"""All rows of the campaign but the bits, which are many."""

from __future__ import annotations

from collections.abc import Iterator

from faults import arrays, banks, images, interrupts, kills, torch_side
from faults.case import Case


def cases() -> Iterator[Case]:
    for kind in (images, arrays, banks, torch_side, kills, interrupts):
        yield from kind.cases()
