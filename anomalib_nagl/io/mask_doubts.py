"""Masks that are probably none: a photograph in the place of a mask, or one that marks everything; needs Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_nagl.io.image_files import decode_mask, opened_image

LEVELS = 32  # more grey values than labels that anybody draws by hand; a JPEG of a mask has them near its edges only
BETWEEN = 0.2  # share of pixels that are neither nearly black nor nearly as bright as the brightest
WHOLE = 0.9  # share of the image


def doubts(mask: Path, image: Path, whole: bool = True) -> list[str]:
    """Why the file of a mask may be none, in words; ``whole`` asks about masks of nearly the whole image too.

    EdgeError, a ValueError, where it is no image at all.
    """
    marked = decode_mask(mask, image)
    found = []
    with opened_image(mask) as opened:
        painted = opened.has_transparency_data or opened.mode in ("P", "1")
        grey = np.zeros((1, 1), np.uint8) if painted else np.asarray(_small(opened).convert("L"))
    top = max(int(grey.max()), 1)
    between = float(((grey > top // 8) & (grey < top - top // 8)).mean())
    if len(np.unique(grey)) > LEVELS and between > BETWEEN:
        found.append(f"{mask} has {len(np.unique(grey))} shades of grey, as a photograph has")
    if whole and float(marked.mean()) > WHOLE:
        found.append(f"{mask} marks {float(marked.mean()):.0%} of the image")
    return found


def _small(opened: Image.Image) -> Image.Image:
    """Enough pixels to count shades by; nearest ones, since averages would make new shades."""
    side = max(1, max(opened.size) // 512)
    return opened.resize((max(opened.width // side, 1), max(opened.height // side, 1)), Image.Resampling.NEAREST)
