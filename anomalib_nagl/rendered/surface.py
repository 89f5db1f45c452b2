"""What every drawn product is before it is photographed: colour and relief on a square canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import idctn
from scipy.ndimage import gaussian_filter
from skimage import draw

Floats = npt.NDArray[np.floating[Any]]  # single precision throughout, though numpy's annotations cannot tell
Bools = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]

CANVAS = 448  # drawn at twice the image's resolution, with a margin that pose changes may bring into view
SHAPE = (CANVAS, CANVAS)


@dataclass
class Surface:
    """One product as drawn, before light and camera.

    Attributes:
        albedo: reflected share of light, (3, CANVAS, CANVAS), 0 to 1.
        height: relief in canvas pixels, (CANVAS, CANVAS).
        gloss: strength of the mirror-like highlight, 0 for matt.
        product: where the product is; damage happens here and not on the background, (CANVAS, CANVAS).
        damage: pixels that differ from an intact product, (CANVAS, CANVAS).
    """

    albedo: Floats
    height: Floats
    gloss: float
    product: Bools
    damage: Bools

    @classmethod
    def plain(cls, colour: Colour, gloss: float = 0.0) -> Surface:
        """A flat, evenly coloured canvas, all of it product and none of it damaged."""
        albedo = np.broadcast_to(_stack(colour), (3, *SHAPE)).copy()
        return cls(albedo, np.zeros(SHAPE, np.float32), gloss, np.ones(SHAPE, bool), np.zeros(SHAPE, bool))

    def tint(self, colour: Colour, amount: Floats) -> None:
        """Blend a colour in; the amount, (CANVAS, CANVAS), is 0 for untouched and 1 for covered."""
        self.albedo += amount * (_stack(colour) - self.albedo)

    def paint(self, colour: Colour, where: Bools) -> None:
        """Cover a region with a colour."""
        for channel, share in zip(self.albedo, colour, strict=True):
            channel[where] = share

    def lay(self, piece: Bools, colour: Colour, lift: float, edge: float = 2.0) -> None:
        """Put a piece on top (or, with a negative lift, sink it in), its edge rounded over some pixels."""
        self.paint(colour, piece)
        self.height += lift * soft(piece, edge)


def _stack(colour: Colour) -> Floats:
    """A colour in the shape that broadcasts over an albedo, (3, 1, 1)."""
    return np.array(colour, np.float32)[:, None, None]


def soft(region: Bools, sigma: float) -> Floats:
    """A region with blurred borders, 0 to 1."""
    return gaussian_filter(region.astype(np.float32), sigma, truncate=2.5)


def wander(rng: np.random.Generator, down: int, across: int) -> Floats:
    """Random undulation with at most so many half waves along each axis, standard deviation 1."""
    waves = rng.standard_normal((down, across), np.float32)
    waves[0, 0] = 0  # no offset
    field: Floats = idctn(waves * (CANVAS / np.linalg.norm(waves)), s=SHAPE, norm="ortho")
    return field


def grid() -> tuple[Floats, Floats]:
    """Row and column of every canvas pixel."""
    rows, columns = np.indices(SHAPE, dtype=np.float32)
    return rows, columns


def disks(centres: list[tuple[float, float]], radius: float) -> Bools:
    """Union of equal disks."""
    region = np.zeros(SHAPE, bool)
    for centre in centres:
        region[draw.disk(centre, radius, shape=SHAPE)] = True
    return region


def boxes(corners: list[tuple[float, float, float, float]]) -> Bools:
    """Union of upright rectangles, each given as top, left, height and width."""
    region = np.zeros(SHAPE, bool)
    for top, left, height, width in corners:
        region[draw.rectangle((top, left), extent=(height, width), shape=SHAPE)] = True
    return region


def polygon(rows: list[float], columns: list[float]) -> Bools:
    """A filled polygon."""
    return np.asarray(draw.polygon2mask(SHAPE, np.stack([rows, columns], axis=1)), dtype=bool)
