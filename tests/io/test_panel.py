"""The picture of a prediction, as it is drawn: looked at by its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_nagl.io.lettering import drawable, text_width, wrap, write
from anomalib_nagl.io.panel import SIDE, Panel, Shown, draw, header, shrink
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN, NO_VERDICT
from anomalib_nagl.io.tint import DASHES, border, outline, tint


def shown(verdict: str, size: tuple[int, int] = (120, 100), **more: Any) -> Shown:
    """A grey image with a map that has a peak."""
    values = np.full((64, 64), 0.2, np.float32)
    values[10:20, 30:40] = 0.9
    given = {"name": "part.png", "pixels": np.full((*size, 3), 128, np.uint8), "map": values, "score": 0.7}
    return Shown(**{**given, "verdict": verdict, "threshold": 0.5, "pixel_threshold": 0.5, **more})


def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == colour).all(axis=2).any())


@pytest.mark.parametrize("verdict", [GOOD, LOOK_AGAIN, NO_VERDICT, DEFECTIVE])
def test_an_outline_is_drawn_on_defective_parts_alone(verdict: str) -> None:
    assert has(draw(shown(verdict)), DASHES[0]) == (verdict == DEFECTIVE)


def test_verdicts_differ_without_colour() -> None:
    words = [np.asarray(header(shown(verdict), SIDE).convert("1")) for verdict in (GOOD, DEFECTIVE, LOOK_AGAIN)]
    for one in range(3):
        for other in range(one):
            assert (words[one] != words[other]).mean() > 0.02


def test_only_what_is_above_the_threshold_is_tinted() -> None:
    pixels, values = np.full((40, 50, 3), 90, np.uint8), np.zeros((40, 50), np.float32)
    values[5:10, 5:10], values[20, 20] = 0.8, 0.5
    changed = (tint(pixels, values, 0.5, 1.0) != pixels).any(axis=2)
    assert np.array_equal(changed, values > 0.5)


@pytest.mark.parametrize(("top", "left"), [(20, 30), (0, 0), (50, 70)])
def test_lines_are_two_pixels_wide(top: int, left: int) -> None:
    """Inside the picture and at its edges alike, and in both colours: a dashed line."""
    mask = np.zeros((80, 100), bool)
    mask[top : top + 30, left : left + 30] = True
    line = border(mask)
    middle = line[top + 15, max(left - 3, 0) : left + 5]
    assert middle.sum() == 2
    drawn = outline(np.zeros((80, 100, 3), np.uint8), mask)
    colours = {tuple(colour) for colour in drawn[line].tolist()}
    assert colours == set(DASHES)
    assert not drawn[~line].any()


@pytest.mark.parametrize("size", [(60, 240), (2000, 500), (7, 9)])
def test_no_picture_is_stretched(size: tuple[int, int]) -> None:
    small = shrink(np.zeros((*size, 3), np.uint8))
    assert max(small.shape[:2]) == SIDE
    assert small.shape[0] / small.shape[1] == pytest.approx(size[0] / size[1], rel=0.02)
    draw(shown(DEFECTIVE, size))


def test_nothing_is_written_over_a_picture() -> None:
    """The image stands in the picture as it is, whatever is told of it."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    picture = np.asarray(draw(shown(LOOK_AGAIN, pixels=pixels, notes=["a note " * 40], name="n" * 300)))
    inner = pixels[1:-1, 1:-1]
    found = np.flatnonzero((picture == inner[0, 0]).all(axis=2))
    places = [divmod(int(place), picture.shape[1]) for place in found]
    assert any(
        np.array_equal(picture[down : down + SIDE - 2, right : right + SIDE - 2], inner) for down, right in places
    )


def test_references_and_known_defects_have_panels() -> None:
    plain, mask = draw(shown(DEFECTIVE)), np.zeros((120, 100), bool)
    mask[10:20, 10:20] = True
    reference = Panel("like open.png", np.full((50, 60, 3), 40, np.uint8), mask[:50, :60])
    more = draw(shown(DEFECTIVE, truth=mask, references=[reference]))
    assert more.width > plain.width + SIDE
    assert has(more, (0, 120, 60))


def test_umlauts_are_drawn() -> None:
    def drawn(text: str) -> np.ndarray:
        image = Image.new("RGB", (60, 40), "white")
        write(image, (5, 5), wrap(text, 20, 50), 20, (0, 0, 0))
        return np.asarray(image).min(axis=2)

    for letter, plain in (("\u00e4", "a"), ("\u00d6", "O"), ("\u00e9", "e"), ("\u010d", "c"), ("\u00e7", "c")):
        with_accent, without = drawn(letter), drawn(plain)
        assert (with_accent <= without).all()  # the letter itself is there
        assert (with_accent < without).sum() > 2, letter
    assert drawable("Gr\u00f6\u00dfe 3 \u00b5m \u2013 \u65e5") == "Gr\u00f6sse 3 um - ?"


def test_lines_fit() -> None:
    text = "a/very/long/path/" * 10 + " some words " * 10
    lines = wrap(text, 17, 200)
    assert all(text_width(line, 17) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", 17, 200) == [""]
