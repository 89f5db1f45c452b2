"""One image file, as folders, datasets and evaluations list it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """Paths of an image and of its mask (None without one), and its defect type.

    Where several files mark defects of the image, the others are ``more_masks``: all of them together are its mask.
    """

    image: str
    mask: str | None = None
    defect_type: str = GOOD
    more_masks: tuple[str, ...] = ()

    @property
    def masks(self) -> tuple[str, ...]:
        """Paths of all mask files."""
        return (self.mask, *self.more_masks) if self.mask else ()


def mask_files(listed: object) -> tuple[str, ...]:
    """Paths of mask files as a table of samples lists them: one, several, or none in any of the usual ways."""
    if isinstance(listed, str | Path):
        return (str(listed),) if str(listed) else ()
    if isinstance(listed, Iterable):
        return tuple(str(path) for path in listed if str(path))
    return ()
