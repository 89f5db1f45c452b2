"""Text on pictures, in the font that Pillow brings along: no font of the machine is asked for.

It has the letters of ASCII alone. Accents are drawn above them, other letters are written with those that there are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Stroke = tuple[tuple[float, float], ...]
# Of each combining accent the strokes: points (right, up) in shares of the size, from the middle of the letter, from
# its top or, where that is negative, from its bottom. A single point is a dot.
_ACCENTS: dict[str, tuple[Stroke, ...]] = {
    "\u0300": (((-0.1, 0.2), (0.06, 0.08)),),
    "\u0301": (((0.1, 0.2), (-0.06, 0.08)),),
    "\u0302": (((-0.13, 0.08), (0, 0.19), (0.13, 0.08)),),
    "\u0303": (((-0.14, 0.09), (-0.05, 0.15), (0.05, 0.1), (0.14, 0.16)),),
    "\u0304": (((-0.14, 0.12), (0.14, 0.12)),),
    "\u0306": (((-0.13, 0.19), (0, 0.08), (0.13, 0.19)),),
    "\u0307": (((0, 0.12),),),
    "\u0308": (((-0.12, 0.12),), ((0.12, 0.12),)),
    "\u030a": (((-0.07, 0.12), (0, 0.2), (0.07, 0.12), (0, 0.05), (-0.07, 0.12)),),
    "\u030b": (((0.02, 0.2), (-0.1, 0.08)), ((0.18, 0.2), (0.06, 0.08))),
    "\u030c": (((-0.13, 0.19), (0, 0.08), (0.13, 0.19)),),
    "\u0327": (((0, -0.02), (0.03, -0.1), (-0.06, -0.16)),),
    "\u0328": (((0.05, -0.02), (-0.02, -0.1), (0.07, -0.15)),),
}
_WRITTEN = {
    "\u00df": "ss", "\u1e9e": "SS", "\u00e6": "ae", "\u00c6": "AE", "\u0153": "oe", "\u0152": "OE", "\u00f8": "o",
    "\u00d8": "O", "\u0142": "l", "\u0141": "L", "\u0111": "d", "\u0110": "D", "\u00fe": "th", "\u00de": "Th",
    "\u00f0": "d", "\u0131": "i", "\u00b5": "u", "\u03bc": "u", "\u03a9": "Ohm", "\u00d7": "x", "\u2013": "-",
    "\u2014": "-", "\u2212": "-",
}  # fmt: skip


@cache
def font(size: int) -> Font:
    """Pillow's own font, ``size`` pixels high."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Text that can be drawn: a letter that cannot is written with others, or is a question mark."""
    return "".join(_drawn(letter) for letter in unicodedata.normalize("NFC", text))


@cache
def _drawn(letter: str) -> str:
    if letter.isspace():
        return " "
    if letter in _WRITTEN:
        return _WRITTEN[letter]
    base, *accents = list(unicodedata.normalize("NFD", letter))
    if base.isascii() and base.isprintable():
        return letter if all(accent in _ACCENTS for accent in accents) else base
    if letter in _ACCENTS:
        return letter
    plain = unicodedata.normalize("NFKD", letter)
    return plain if plain.isascii() and plain.isprintable() else "?"


def text_width(text: str, size: int) -> int:
    """Pixels that a drawable line takes."""
    return int(_length(_letters(text), size) + 0.999)


def _length(letters: Sequence[str], size: int) -> float:
    return float(font(size).getlength("".join(letter[0] for letter in letters)))


def _letters(text: str) -> list[str]:
    """Letters of a line, each followed by its accents."""
    found: list[str] = []
    for sign in unicodedata.normalize("NFD", text):
        if sign in _ACCENTS and found:
            found[-1] += sign
        else:
            found.append(sign)
    return found


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return size * 5 // 4


def wrap(text: str, size: int, width: int) -> list[str]:
    """Drawable lines of at most ``width`` pixels, broken at spaces and, where a word is longer, within it."""
    lines = [""]
    for word in drawable(text).split():
        for part in _pieces(word, size, width):
            longer = f"{lines[-1]} {part}".strip()
            if text_width(longer, size) <= width:
                lines[-1] = longer
            else:
                lines.append(part)
    return [line for line in lines if line] or [""]


def _pieces(word: str, size: int, width: int) -> Iterator[str]:
    """A word in parts that fit; no part is empty."""
    while text_width(word, size) > width and len(word) > 1:
        fits = max((end for end in range(1, len(word)) if text_width(word[:end], size) <= width), default=1)
        yield word[:fits]
        word = word[fits:]
    yield word


def write(image: Image.Image, place: tuple[int, int], lines: Sequence[str], size: int, colour: Colour) -> None:
    """Write drawable lines into an image, from the left top corner (x, y) downwards."""
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        left, top, letters = place[0], place[1] + row * line_height(size), _letters(line)
        pen.text((left, top), "".join(letter[0] for letter in letters), fill=colour, font=font(size))
        for index, letter in enumerate(letters):
            for accent in letter[1:]:
                start = left + _length(letters[:index], size)
                _draw_accent(pen, letter[0], accent, (start, top), size, colour)


def _draw_accent(
    pen: ImageDraw.ImageDraw, letter: str, accent: str, place: tuple[float, float], size: int, colour: Colour
) -> None:
    """Draw an accent above, or below, a letter that begins at a place."""
    box = font(size).getbbox(letter)
    middle, thick = place[0] + (box[0] + box[2]) / 2, max(round(size / 14), 1)
    for stroke in _ACCENTS[accent]:
        points = [
            (middle + right * size, place[1] + (box[1] if up > 0 else box[3]) - up * size) for right, up in stroke
        ]
        if len(points) > 1:
            pen.line(points, fill=colour, width=thick)
        else:
            ((x, y),) = points
            radius = max(size / 18, 0.75)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
