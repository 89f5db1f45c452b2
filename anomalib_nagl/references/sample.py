"""One image file, as folders, datasets and evaluations list it."""

from __future__ import annotations

from dataclasses import dataclass

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """Paths of an image and of its mask (None without one), and its defect type."""

    image: str
    mask: str | None = None
    defect_type: str = GOOD
