"""Damage that can happen to any product: a scratch or a spot."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage import draw

from anomalib_nagl.rendered.surface import CANVAS, SHAPE, Bools, Colour, Floats, Surface, grid, soft, wander

MARGIN = 90  # damage is centred at least so many canvas pixels from the border, hence always in the image


def scratch(surface: Surface, rng: np.random.Generator) -> None:
    """Draw a sharp point over the product: a thin, slightly bent groove, lighter or darker than its surroundings."""
    middle, angle, half = np.array(_place(surface, rng)), rng.uniform(0, np.pi), rng.uniform(45, 100)
    step = half * np.array([np.sin(angle), np.cos(angle)])
    bend = rng.normal(0, 0.25) * step[::-1] * (1, -1)
    (top, left), (row, column), (bottom, right) = np.round([middle - step, middle + bend, middle + step]).astype(int)
    line = np.ones(SHAPE, bool)
    line[draw.bezier_curve(top, left, row, column, bottom, right, weight=1.0, shape=SHAPE)] = False
    distance = distance_transform_edt(line).astype(np.float32)
    width = rng.uniform(1.6, 3.2)
    groove = np.exp(-((distance / width) ** 2)) * surface.product
    surface.height -= rng.uniform(2.0, 4.0) * groove
    surface.tint(_contrast(surface, groove, rng), rng.uniform(0.25, 0.6) * groove)
    surface.damage |= (distance <= width + 0.5) & surface.product


def spot(surface: Surface, rng: np.random.Generator) -> None:
    """Spill a drop on the product: a blot with a ragged outline, oily dark or dried pale."""
    inside = _blot(rng, _place(surface, rng), rng.uniform(11, 24)) & surface.product
    strength: Floats = soft(inside, 1.5) * np.float32(rng.uniform(0.3, 0.65))
    surface.tint(_contrast(surface, strength, rng), strength)
    surface.height *= 1 - 0.5 * strength  # a film levels the relief under it
    surface.damage |= inside


def _place(surface: Surface, rng: np.random.Generator) -> tuple[int, int]:
    """A random pixel of the product, away from the border."""
    choice = np.argwhere(surface.product[MARGIN : CANVAS - MARGIN, MARGIN : CANVAS - MARGIN])
    row, column = choice[rng.integers(len(choice))] + MARGIN
    return int(row), int(column)


def _contrast(surface: Surface, where: Floats, rng: np.random.Generator) -> Colour:
    """A dark or a pale colour, by chance where both would show, else the one that does."""
    below = float((surface.albedo.mean(axis=0) * where).sum() / where.sum())
    dark, pale = (0.12, 0.09, 0.06), (0.85, 0.82, 0.74)
    if 0.3 < below < 0.6:
        return dark if rng.random() < 0.5 else pale
    return pale if below < 0.45 else dark


def _blot(rng: np.random.Generator, centre: tuple[int, int], radius: float) -> Bools:
    rows, columns = grid()
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return distance < radius * (1 + 0.2 * wander(rng, 24, 24))
