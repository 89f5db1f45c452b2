"""Parts on a background: a machined plate, a circuit board and a plug."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from anomalib_nagl.rendered.surface import CANVAS, Bools, Colour, Surface, boxes, disks, grid, polygon, soft, wander

Centres = list[tuple[float, float]]
Box = tuple[float, float, float, float]  # top, left, height, width
Boxes = list[Box]

BLACK: Colour = (0.05, 0.05, 0.06)
BRASS: Colour = (0.72, 0.56, 0.28)
STEEL: Colour = (0.55, 0.56, 0.58)
TIN: Colour = (0.70, 0.71, 0.72)
WHITE: Colour = (0.85, 0.86, 0.84)

PLATE_PINS: Centres = [(row, column) for column in (118.0, 330.0) for row in (160.0, 224.0, 288.0)]
PLATE_SCREWS: Centres = [(row, column) for column in (104.0, 344.0) for row in (104.0, 344.0)]
PLATE_MARK = [(0, 4), (9, 9), (24, 4), (33, 4), (44, 12), (62, 4), (71, 9), (86, 4), (96, 12), (116, 4), (125, 4)]

BOARD_CHIPS: Boxes = [(130, 120, 84, 84), (250, 236, 60, 100)]
BOARD_LEGS: Boxes = [
    *((top, left, 6, 12) for left in (108, 204) for top in range(138, 206, 16)),
    *((top, left, 12, 6) for top in (238, 310) for left in range(246, 330, 16)),
]
BOARD_BLOCKS: Boxes = [(118 + 40 * row, 262 + 52 * column, 18, 36) for row in range(3) for column in range(2)]
BOARD_BLOCKS += [(256 + 40 * row, 128, 18, 36) for row in range(2)]
BOARD_TRACES: Boxes = [
    *((141 + 16 * k, 216, 5, 40) for k in range(4)),
    *((90, 132 + 16 * k, 40, 5) for k in range(4)),
    *((322, 247 + 16 * k, 34, 5) for k in range(6)),
    *((222 + 9 * k, 120, 5, 110) for k in range(3)),
    *((262 + 40 * k, 164, 5, 72) for k in range(2)),
]
BOARD_HOLES: Centres = [(row, column) for row in (88.0, 360.0) for column in (88.0, 360.0)]

PLUG_PINS: Boxes = [(row, 110 + 42 * k, 16, 16) for row in (190, 240) for k in range(6)]


def plate(rng: np.random.Generator, missing: bool) -> Surface:
    """A steel plate with a bore, screw holes and six brass pins; a pin or a corner can be missing."""
    lose_pin, lose_corner = _either(rng, missing)
    surface = _bench(rng, (0.12, 0.13, 0.15))
    body = boxes([(70, 70, 308, 308)]) & ~polygon([60, 60, 100], [348, 388, 388])
    _mount(surface, body, STEEL, rng, broken=_corner(rng, 70, 70) if lose_corner else None)
    surface.albedo *= 1 + 0.05 * wander(rng, 300, 8) * body  # milled along the rows
    surface.gloss = 0.10
    for region, colour, lift in (
        (disks([(224, 224)], 72), (0.62, 0.63, 0.64), -3),
        (disks(PLATE_SCREWS, 19), (0.45, 0.46, 0.48), -3),
        (disks([*PLATE_SCREWS, *PLATE_PINS], 10), BLACK, -4),
    ):
        surface.lay(region & surface.product, colour, lift)
    bore = disks([(224, 224)], 56)
    surface.lay(bore, BLACK, -8)
    surface.product &= ~bore
    surface.paint((0.12, 0.12, 0.14), boxes([(334, 158 + left, 20, width) for left, width in PLATE_MARK]))
    _fit(surface, [disks([centre], 14) for centre in PLATE_PINS], BRASS, 6, rng, lose_pin)
    return surface


def board(rng: np.random.Generator, missing: bool) -> Surface:
    """A green circuit board with chips and small blocks; a block or a leg of a chip can be missing."""
    lose_block, lose_leg = _either(rng, missing)
    surface = _bench(rng, (0.55, 0.54, 0.52))
    _mount(surface, boxes([(62, 62, 324, 324)]), (0.05, 0.27, 0.15), rng)
    surface.gloss = 0.03
    caps = boxes([cap for block in BOARD_BLOCKS for cap in _ends(block)])
    surface.paint(WHITE, _outline(BOARD_BLOCKS))
    for region, colour, lift in (
        (boxes(BOARD_TRACES), (0.12, 0.38, 0.21), 1),
        (disks(BOARD_HOLES, 15), BRASS, 0.5),
        (disks(BOARD_HOLES, 8), BLACK, -4),
        (caps, BRASS, 0.5),
    ):
        surface.lay(region, colour, lift)
    _fit(surface, [boxes([leg]) for leg in BOARD_LEGS], TIN, 2, rng, lose_leg)
    _fit(surface, [boxes([block]) for block in BOARD_BLOCKS], (0.17, 0.14, 0.12), 5, rng, lose_block)
    surface.paint(TIN, caps & ~surface.damage)
    surface.lay(boxes(BOARD_CHIPS), (0.09, 0.09, 0.10), 5)
    surface.lay(disks([(144, 134), (264, 250)], 5), (0.20, 0.20, 0.20), -1)
    surface.paint((0.45, 0.45, 0.45), boxes([(166, 136, 7, 52), (180, 136, 7, 36), (276, 262, 7, 60)]))
    return surface


def plug(rng: np.random.Generator, missing: bool) -> Surface:
    """A black plug with a latch and two rows of brass pins; a pin or a corner can be missing."""
    lose_pin, lose_corner = _either(rng, missing)
    surface = _bench(rng, (0.66, 0.65, 0.62))
    body = boxes([(140, 66, 176, 316), (106, 180, 40, 88)])
    _mount(surface, body, (0.13, 0.14, 0.17), rng, broken=_corner(rng, 140, 66) if lose_corner else None)
    surface.gloss = 0.06
    surface.lay(boxes([(164, 90, 128, 268)]), (0.07, 0.07, 0.09), -7, edge=4)
    surface.lay(boxes([(118, 196, 14, 56)]), (0.20, 0.21, 0.24), 3)
    surface.paint((0.60, 0.60, 0.58), polygon([300, 300, 310], [100, 112, 106]))
    _fit(surface, [boxes([pin]) for pin in PLUG_PINS], BRASS, 6, rng, lose_pin)
    return surface


def _either(rng: np.random.Generator, missing: bool) -> tuple[bool, bool]:
    """Which of two things is missing, if anything is."""
    first = bool(rng.random() < 0.6)
    return missing and first, missing and not first


def _bench(rng: np.random.Generator, colour: Colour) -> Surface:
    """The surface that the part lies on: another piece of it in every image, with a few crumbs, all harmless."""
    surface = Surface.plain(colour)
    grain = wander(rng, int(rng.integers(30, 220)), int(rng.integers(30, 220)))
    surface.albedo *= rng.uniform(0.7, 1.3) + 0.04 * wander(rng, 9, 9) + rng.uniform(0.02, 0.16) * grain
    for _ in range(rng.poisson(4)):
        crumb = disks([(rng.uniform(20, CANVAS - 20), rng.uniform(20, CANVAS - 20))], rng.uniform(3, 8))
        shade = rng.uniform(0.1, 0.8)
        surface.lay(crumb, (shade, shade, 0.9 * shade), 2)
    return surface


def _mount(
    surface: Surface, body: Bools, colour: Colour, rng: np.random.Generator, broken: Bools | None = None
) -> None:
    """Put the part's body on the bench with a chamfered rim; the broken region, if any, came off it."""
    chamfer = np.minimum(distance_transform_edt(body), 9).astype(np.float32)
    surface.tint((0, 0, 0), 0.45 * soft(np.roll(body, (5, 4), axis=(0, 1)), 5))
    if broken is not None:
        surface.damage |= broken & body
        body = body & ~broken
    surface.paint(colour, body)
    surface.height += np.where(body, chamfer, 0)
    surface.albedo *= 1 + body * (0.02 * wander(rng, 6, 6) + 0.025 * wander(rng, 200, 200))
    surface.product = body


def _corner(rng: np.random.Generator, top: float, left: float) -> Bools:
    """A piece broken off the part's corner at the upper left, cut along a ragged line."""
    rows, columns = grid()
    steepness = rng.uniform(0.6, 1.6)
    return (rows - top) + steepness * (columns - left) < rng.uniform(30, 56) + 2.5 * wander(rng, 40, 40)


def _fit(
    surface: Surface, pieces: list[Bools], colour: Colour, lift: float, rng: np.random.Generator, lose: bool
) -> None:
    """Fit equal pieces, all or all but one."""
    lost = rng.integers(len(pieces))
    if lose:
        surface.damage |= pieces[lost]
    kept = [piece for number, piece in enumerate(pieces) if not (lose and number == lost)]
    surface.lay(np.any(kept, axis=0), colour, lift, edge=2.5)


def _ends(block: Box) -> Boxes:
    """The two soldered ends of a block."""
    top, left, height, width = block
    return [(top, left, height, 9), (top, left + width - 9, height, 9)]


def _outline(blocks: Boxes) -> Bools:
    """Printed frames around blocks."""
    grown = [
        boxes([(top - by, left - by, height + 2 * by, width + 2 * by) for top, left, height, width in blocks])
        for by in (6, 4)
    ]
    return grown[0] & ~grown[1]
