"""Anomaly maps and regions drawn over images, without torch: what lies below the threshold is not coloured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]
# From just above the threshold to the top of the scale. Lightness falls all the way: they differ without colour too.
STOPS: tuple[Colour, ...] = ((255, 230, 80), (245, 140, 20), (205, 35, 45), (95, 0, 65))
STRENGTH = 0.6  # share of the colour in a tinted pixel
DASHES: tuple[Colour, Colour] = ((215, 0, 160), (255, 255, 255))  # one of them stands out on any part
DASH = 7  # pixels
LINE = 2  # pixels


def scale_colours(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (..., 3) of values between 0, just above the threshold, and 1, the top of the scale."""
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(share, places, [stop[channel] for stop in STOPS]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def resize_map(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) at the ``size`` (width, height) of a picture, bilinearly."""
    grey = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(grey.resize(size, Image.Resampling.BILINEAR), np.float32)


def resize_mask(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (h, w) at the ``size`` (width, height) of a picture; what is small does not vanish."""
    return resize_map(np.asarray(mask) != 0, size) > (0.5 if mask.shape[0] <= size[1] else 1e-3)


def tint(pixels: NDArray[np.uint8], values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Colour the pixels (H, W, 3) whose value (H, W) exceeds ``low``; ``high`` and above have the last colour."""
    share = ((values - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
    tinted = pixels * (1 - STRENGTH) + scale_colours(share) * STRENGTH
    return np.where((values > low)[..., None], tinted, pixels).round().astype(np.uint8)


def outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], dashes: tuple[Colour, Colour] = DASHES) -> NDArray[Any]:
    """Draw a dashed line, ``LINE`` pixels wide, along the border of a mask (H, W) over pixels (H, W, 3).

    At the edge of the picture the line runs inside it.
    """
    line = border(mask)
    down, right = np.indices(mask.shape)
    other = ((down // DASH + right // DASH) % 2).astype(bool)  # dashes of two colours, in whichever direction it runs
    drawn = pixels.copy()
    drawn[line & ~other], drawn[line & other] = dashes
    return drawn


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels (H, W) at the border of a mask: one inside and one outside, or two inside at the edge of the picture."""
    outside = ~np.pad(mask, 1)
    inner = mask & _near(outside)[1:-1, 1:-1]
    outer = ~mask & _near(np.pad(mask, 1))[1:-1, 1:-1]
    edge = np.zeros_like(mask)
    edge[:LINE], edge[-LINE:], edge[:, :LINE], edge[:, -LINE:] = True, True, True, True
    found: NDArray[np.bool_] = inner | outer | (mask & edge)
    return found


def _near(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask and all that touch one, diagonally too."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    found = np.zeros_like(mask)
    for top in range(3):
        for left in range(3):
            found |= padded[top : top + height, left : left + width]
    return found
