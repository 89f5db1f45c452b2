"""The page of a model that sees large images in windows, in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import PART, Tab
from support.once import once

from anomalib_nagl import Nagl, NaglEdge, ReferenceSet

pytestmark = pytest.mark.slow
WIDE = 416  # pixels; the images are 192 high


def write(folder: Path, plug: Path, kind: str, number: int) -> Path:
    """Two drawn parts in one image, side by side with what lies between them."""
    folder.mkdir(parents=True, exist_ok=True)
    first = np.asarray(Image.open(plug / PART / f"test/good/{number:03}.png"))
    second = np.asarray(Image.open(plug / PART / f"test/{kind}/{number:03}.png"))
    between = np.repeat(first[:, -1:], WIDE - first.shape[1] - second.shape[1], axis=1)
    path = folder / f"{kind}-{number:03}.png"
    Image.fromarray(np.concatenate([first, between, second], axis=1)).save(path)
    return path


def make_export(folder: Path, plug: Path) -> None:
    """A model in windows that knows three images."""
    for number in (0, 1, 2):
        write(folder / "references/good", plug, "good", number)
    model = Nagl("builtin", variant="discriminant", window=96, overlap=16).eval()
    model.set_references(ReferenceSet.from_folder(folder / "references"))
    model.to_openvino(folder)


@pytest.fixture
def model(browser: object, plug: Path, run_folder: Path, tmp_path: Path) -> Path:
    """An exported model whose bank may be taught."""
    made = once(run_folder / "page-windows", lambda folder: make_export(folder, plug)) / "weights/openvino"
    return shutil.copytree(made, tmp_path / "box") / "model.xml"


@pytest.fixture
def gallery(plug: Path, tmp_path: Path) -> Path:
    """A few wide images."""
    for kind, number in (("good", 5), ("good", 6), ("scratch", 1)):
        write(tmp_path / "images", plug, kind, number)
    return tmp_path / "images"


def drawing(tab: Tab) -> np.ndarray:
    """What is on the canvas of the large image, (h, w, 4)."""
    script = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
        const canvas = document.getElementById("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        done({ size: [canvas.height, canvas.width], values: Array.from(data) });
    })))"""
    found = tab.page.evaluate(script)
    return np.array(found["values"], np.uint8).reshape(*found["size"], 4)


def test_windows_are_told_and_drawn_over_the_image(tab: Tab, model: Path, gallery: Path) -> None:
    scores = tab.scored()
    detector = NaglEdge(model)
    for name, score in scores.items():
        assert score == pytest.approx(detector.predict(gallery / name).score, abs=2e-3)
    windows = tab.ask("/api/state")["model"]["windows"]
    assert (windows["size"], windows["overlap"], windows["overview"], windows["count"]) == ([96, 96], 16, True, 15)
    assert windows["tops"] == [0, 48, 96]
    assert windows["lefts"] == [0, 80, 160, 240, 320]
    said = tab.page.locator("#about").inner_text().replace("\N{MULTIPLICATION SIGN}", "x")
    assert "input 416 x 192 pixels. 15 windows of 96 x 96 pixels that share 16 or more, and the whole image" in said
    tab.open("scratch-001")
    tab.page.locator("#opacity").fill("0")
    tab.page.locator("#outline").uncheck()
    plain = drawing(tab)
    tab.page.locator("#windows").check()
    gridded = drawing(tab)
    changed = (plain != gridded).any(axis=2)
    rows, columns = np.nonzero(plain[..., 3])
    top, left, scale = rows.min(), columns.min(), (columns.max() + 1 - columns.min()) / WIDE
    # In the middle of the strip that two windows share, and where a single one looks.
    for x, shared in ((88, True), (48, False)):
        assert changed[round(top + 24 * scale), round(left + x * scale)] == shared
    tab.page.locator("#windows").uncheck()
    assert (drawing(tab) == plain).all()


def test_a_lesson_is_taught_in_windows(tab: Tab) -> None:
    before = tab.scored()
    tab.open("scratch-001")
    tab.page.locator("#stage").press("a")
    tab.page.locator("#teach:enabled").click()
    tab.said("Taught")
    assert tab.scored()["scratch-001.png"] > before["scratch-001.png"]
