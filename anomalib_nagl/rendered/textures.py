"""Surfaces that fill the image: woven cloth, brushed metal and grained wood."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from anomalib_nagl.rendered.surface import SHAPE, Bools, Colour, Floats, Surface, grid, soft, wander

THREAD = 16.0  # canvas pixels from one thread of the cloth to the next


def cloth(rng: np.random.Generator, missing: bool) -> Surface:
    """Twill of blue warp and pale weft; what can be missing is a length of one thread."""
    rows, columns = grid()
    along = (columns + rng.uniform(16, 80) + 2.0 * wander(rng, 5, 5)) / THREAD
    down = (rows + rng.uniform(16, 80) + 2.0 * wander(rng, 5, 5)) / THREAD
    warp_on_top = (np.floor(along) + np.floor(down)) % 4 < 2
    gone = _length_of_thread(rng, along, down) if missing else np.zeros(SHAPE, bool)
    surface = Surface.plain((0.07, 0.07, 0.09))
    surface.damage = gone
    fibres = rng.standard_normal(SHAPE, np.float32)
    for on_top, position, axis, colour in (
        (~warp_on_top, down, 1, (0.66, 0.66, 0.60)),
        (warp_on_top & ~gone, along, 0, (0.20, 0.32, 0.55)),
    ):
        _weave(surface, on_top, position, colour, gaussian_filter1d(fibres, 4.0, axis=axis), rng)
    return surface


def _weave(
    surface: Surface, on_top: Bools, position: Floats, colour: Colour, fibres: Floats, rng: np.random.Generator
) -> None:
    """Lay one direction's threads wherever they pass over the other's."""
    number = position.astype(int)  # positions are never negative
    bulge = np.sqrt(np.clip(1 - (2 * (position % 1) - 1) ** 2, 0, 1))
    shade = rng.normal(1, 0.05, 128).astype(np.float32)[number % 128] + 0.25 * fibres
    cover = soft(on_top, 1.0) * np.clip(1.6 * bulge, 0, 1)
    for channel, share in zip(surface.albedo, colour, strict=True):
        channel += cover * (share * shade - channel)
    surface.height += cover * bulge * 4


def _length_of_thread(rng: np.random.Generator, along: Floats, down: Floats) -> Bools:
    """Part of one warp thread, 6 to 14 weft threads long."""
    thread, start = rng.integers(8, 18), rng.integers(6, 12)
    return (np.floor(along) == thread) & (np.abs(down - start - 5) < rng.uniform(3, 7))


def brushed(rng: np.random.Generator, missing: bool) -> Surface:
    """Metal with horizontal hairlines; what can be missing is the brushing, on a patch left smooth."""
    surface = Surface.plain((0.50, 0.51, 0.53), gloss=0.12)
    lines = 0.7 * wander(rng, 400, 8) + 0.7 * wander(rng, 200, 24)
    if missing:
        surface.damage = _patch(rng, (26, 60), (18, 34))
        lines = lines * (1 - 0.85 * soft(surface.damage, 2.0))
    surface.albedo *= 1 + 0.07 * lines + 0.03 * wander(rng, 6, 2)
    surface.height += 0.25 * lines
    return surface


def _patch(rng: np.random.Generator, half_widths: tuple[float, float], half_heights: tuple[float, float]) -> Bools:
    """A ragged oval within sight, half its size drawn from the two ranges."""
    rows, columns = grid()
    row, column = rng.uniform(110, 338, 2)
    reach = ((columns - column) / rng.uniform(*half_widths)) ** 2 + ((rows - row) / rng.uniform(*half_heights)) ** 2
    return np.sqrt(reach) < 1 + 0.12 * wander(rng, 30, 30)


def wood(rng: np.random.Generator, missing: bool) -> Surface:
    """A planed board with grain along the rows; what can be missing is a splinter torn out of it."""
    rows, _ = grid()
    rings = (rows + 14 * wander(rng, 6, 3) + 3 * wander(rng, 14, 5) + rng.uniform(0, 99)) / rng.uniform(30, 36)
    late = (rings % 1) ** 3  # growth darkens slowly and ends sharply
    surface = Surface.plain((0.74, 0.55, 0.36), gloss=0.03)
    surface.tint((0.47, 0.29, 0.16), 0.75 * soft(late > 0.5, 1.5) * late + 0.2 * late)
    fibres = wander(rng, 440, 16)
    pores = gaussian_filter1d((rng.random(SHAPE) < 0.0025).astype(np.float32), 5.0, axis=1)
    surface.albedo *= 1 + 0.05 * fibres - np.clip(4.5 * pores, 0, 0.5)
    surface.height += 0.2 * fibres - 2 * pores
    if missing:
        _tear(surface, rng)
    return surface


def _tear(surface: Surface, rng: np.random.Generator) -> None:
    """Tear a splinter out: a long hollow with fresh, pale wood inside."""
    surface.damage = _patch(rng, (34, 70), (6, 11))
    hollow = soft(surface.damage, 1.2)
    surface.tint((0.80, 0.64, 0.45), 0.7 * hollow)
    surface.height += hollow * (-4 + wander(rng, 120, 40))
