"""The picture of a prediction: verdict, score and threshold above the image, its tinted map and what was found.

One layout for torch, the box and the evaluation. Nothing is written over a picture, no picture is stretched, and
nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anomalib_nagl.io.lettering import line_height, text_width, wrap, write
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN
from anomalib_nagl.io.tint import outline, resize_map, resize_mask, scale_colours, tint

SIDE = 420  # pixels of the longer side of a panel
GAP, MARGIN = 12, 14
TITLE, TEXT, HEADLINE = 16, 17, 30  # pixels of the letters
BAR = 16  # width of the colour bar
WHITE, BLACK, GREY, FRAME = (255, 255, 255), (25, 25, 25), (95, 95, 95), (150, 150, 150)
# Ground and letters of a verdict: they differ in lightness as well, and the word is always there.
BADGES = {
    GOOD: ((0, 90, 130), WHITE),
    DEFECTIVE: ((190, 40, 0), WHITE),
    LOOK_AGAIN: ((250, 215, 90), BLACK),
}
TRUTH = ((0, 120, 60), (200, 255, 210))


class Panel(NamedTuple):
    """A picture (H, W, 3) of 8 bits with a title above it; ``mask`` (h, w) is outlined in it."""

    title: str
    pixels: NDArray[np.uint8]
    mask: NDArray[Any] | None = None


class Shown(NamedTuple):
    """What is told of an image (H, W, 3) of 8 bits.

    ``map`` (h, w) is coloured above ``pixel_threshold``, up to ``top``, and outlined if the ``verdict`` is
    ``defective``. ``score`` and ``threshold`` are None where there is none; ``notes`` are lines below them.
    ``truth`` (h, w) is a mask of what is known to be defective, ``references`` are shown to compare with.
    """

    name: str
    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]
    verdict: str
    score: float | None
    threshold: float | None
    pixel_threshold: float | None
    notes: Sequence[str] = ()
    truth: NDArray[Any] | None = None
    references: Sequence[Panel] = ()
    top: float = 1.0


def draw(shown: Shown) -> Image.Image:
    """The whole picture of a prediction."""
    small = shrink(shown.pixels)
    panels = [Panel("image", small)]
    if shown.truth is not None:
        panels.append(
            _outlined(Panel("known defect" if np.any(shown.truth) else "known to be good", small, shown.truth))
        )
    drawn = [framed(panel) for panel in panels] + _of_map(shown, small)
    drawn += [draw_panel(panel) for panel in shown.references]
    return stack([header(shown, sum(one.width for one in drawn) + GAP * (len(drawn) - 1)), beside(drawn)])


def _of_map(shown: Shown, small: NDArray[np.uint8]) -> list[Image.Image]:
    """The tinted image with its colour bar and, where something was found, the outlined one."""
    if shown.pixel_threshold is None:
        return []
    size = small.shape[1], small.shape[0]
    values, low = resize_map(shown.map, size), shown.pixel_threshold
    high = max(shown.top, low + 1e-3)
    tinted = Panel(f"tinted above {low:.2f}", tint(small, values, low, high))
    drawn = [framed(tinted), colour_bar(small.shape[0], low, high, float(shown.map.max()))]
    if shown.verdict == DEFECTIVE and (values > low).any():
        found = outline(small, values > low)
        drawn.append(framed(Panel("found", found)))
    return drawn


def shrink(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) with a longer side of ``side``, larger or smaller than before, in the same proportions."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, method, reducing_gap=3.0))


def draw_panel(panel: Panel) -> Image.Image:
    """A picture of any size under its title, with the outline of its mask."""
    return framed(_outlined(panel._replace(pixels=shrink(panel.pixels))))


def _outlined(panel: Panel) -> Panel:
    if panel.mask is None or not np.any(panel.mask):
        return panel
    mask = resize_mask(np.asarray(panel.mask), (panel.pixels.shape[1], panel.pixels.shape[0]))
    return panel._replace(pixels=outline(panel.pixels, mask, TRUTH))


def framed(panel: Panel) -> Image.Image:
    """A picture as it is, under its title."""
    picture = Image.fromarray(np.ascontiguousarray(panel.pixels))
    lines = wrap(panel.title, TITLE, max(picture.width, 110))
    above = Image.new(
        "RGB", (max(picture.width, *(text_width(line, TITLE) for line in lines)), _title_height(lines)), WHITE
    )
    write(above, (0, 0), lines, TITLE, BLACK)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=FRAME)
    return stack([above, picture], gap=0, margin=0)


def _title_height(lines: Sequence[str]) -> int:
    return len(lines) * line_height(TITLE) + 4


def colour_bar(height: int, low: float, high: float, peak: float) -> Image.Image:
    """What the colours mean, from the threshold ``low`` at the bottom up to ``high``; a mark where the ``peak`` is."""
    labels = [f"{high:.2f}", f"{low:.2f}", f"peak {peak:.2f}"]
    width = BAR + 14 + max(text_width(label, TITLE) for label in labels)
    top = _title_height([""])
    length = max(height - line_height(TITLE), 20)
    drawn = Image.new("RGB", (width, top + height), WHITE)
    share = np.linspace(1, 0, length, dtype=np.float32)
    drawn.paste(
        Image.fromarray(np.repeat(scale_colours(share)[:, None], BAR, axis=1).round().astype(np.uint8)), (0, top)
    )
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, top, BAR - 1, top + length - 1), outline=BLACK)
    write(drawn, (BAR + 13, top - 4), labels[:1], TITLE, BLACK)
    write(drawn, (BAR + 13, top + length - line_height(TITLE)), labels[1:2], TITLE, BLACK)
    if peak > low:
        place = top + int((1 - min((peak - low) / (high - low), 1)) * (length - 1))
        pen.polygon(((BAR + 1, place), (BAR + 9, place - 5), (BAR + 9, place + 5)), fill=BLACK)
        beside_mark = min(max(place - TITLE // 2 - 2, top + line_height(TITLE)), top + length - 2 * line_height(TITLE))
        write(drawn, (BAR + 13, beside_mark), labels[2:], TITLE, BLACK)
    return drawn


def header(shown: Shown, width: int) -> Image.Image:
    """Verdict, score and threshold, then the name of the image and notes, in lines of at most ``width`` pixels."""
    width = max(width, SIDE)
    badge = _badge(shown.verdict)
    beside_badge = wrap(_numbers(shown), TEXT, width - badge.width - GAP)
    lines = [line for text in (shown.name, *shown.notes) if text for line in wrap(text, TEXT, width)]
    first = max(badge.height, len(beside_badge) * line_height(TEXT)) + 6
    drawn = Image.new("RGB", (width, first + len(lines) * line_height(TEXT)), WHITE)
    drawn.paste(badge, (0, 0))
    middle = max((badge.height - len(beside_badge) * line_height(TEXT)) // 2, 0)
    write(drawn, (badge.width + GAP, middle), beside_badge, TEXT, BLACK)
    write(drawn, (0, first), lines, TEXT, GREY)
    return drawn


def _numbers(shown: Shown) -> str:
    score = "" if shown.score is None else f"score {shown.score:.3f}"
    return score if shown.threshold is None else f"{score}, threshold {shown.threshold:.3f}"


def _badge(verdict: str) -> Image.Image:
    """The word of a verdict on a ground of its own."""
    ground, letters = BADGES.get(verdict, ((225, 225, 225), BLACK))
    word = wrap((verdict or "no verdict").upper(), HEADLINE, 10_000)[0]
    drawn = Image.new("RGB", (text_width(word, HEADLINE) + 2 * GAP, line_height(HEADLINE) + 8), ground)
    write(drawn, (GAP, 2), [word], HEADLINE, letters)
    return drawn


def beside(drawn: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures side by side on white, their lower edges in line."""
    height = max(one.height for one in drawn)
    sheet = Image.new("RGB", (sum(one.width for one in drawn) + gap * (len(drawn) - 1), height), WHITE)
    left = 0
    for one in drawn:
        sheet.paste(one, (left, height - one.height))
        left += one.width + gap
    return sheet


def stack(drawn: Sequence[Image.Image], gap: int = GAP, margin: int = MARGIN) -> Image.Image:
    """Pictures one below the other on white."""
    size = max(one.width for one in drawn) + 2 * margin, sum(one.height + gap for one in drawn) - gap + 2 * margin
    sheet, top = Image.new("RGB", size, WHITE), margin
    for one in drawn:
        sheet.paste(one, (margin, top))
        top += one.height + gap
    return sheet
