"""The page in a real browser, served by a process of its own; a request that goes elsewhere fails the test."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.signals import hear_interrupts

REQUIRED = os.environ.get("NAGL_BROWSER") == "required"  # .ci/run says so: then nothing here may be left out
PICTURES = os.environ.get("NAGL_SCREENSHOTS")  # a folder for pictures of the page; `make screenshots` names docs/images
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = Path(sys.prefix) / "axe-core/axe.min.js"
SERVE = "import sys; from anomalib_nagl import cli; sys.exit(cli.main())"
SIZE = {"width": 1280, "height": 800}
PART = "plug"
GALLERY = {
    "good": (3, 5, 8, 12, 11), "scratch": (1, 2, 4, 7), "spot": (3, 7), "missing": (3, 5)
}  # fmt: skip


def missing(what: str) -> None:
    """Leave a test out, saying why; where nothing may be left out, fail."""
    (pytest.fail if REQUIRED else pytest.skip)(what)


def chromium() -> str:
    """The program of an installed browser."""
    found = os.environ.get("NAGL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing(f"needs a browser: install one of {', '.join(NAMES)}, or name its program in NAGL_CHROMIUM")
    return str(found)


def axe() -> str:
    """The source of axe-core."""
    if not AXE.is_file():
        missing(f"needs axe-core at {AXE}: make browser")
    return AXE.read_text(encoding="utf-8")


def make_export(folder: Path, drawn: Path) -> None:
    """A drawn part with eight good references and one of a missing pin, as OpenVINO file."""
    from anomalib_nagl import Nagl, ReferenceSet

    part, references = drawn / PART, folder / "references"
    for place in ("good", "defects/missing", "masks/missing"):
        (references / place).mkdir(parents=True)
    for number in range(8):
        shutil.copy(part / f"train/good/{number:03}.png", references / "good")
    shutil.copy(part / "test/missing/000.png", references / "defects/missing/000.png")
    shutil.copy(part / "ground_truth/missing/000_mask.png", references / "masks/missing/000.png")
    model = Nagl("builtin", image_size=(192, 192), variant="discriminant").eval()
    model.set_references(ReferenceSet.from_folder(references))
    model.to_openvino(folder)


def write_gallery(folder: Path, drawn: Path) -> Path:
    """Images ``KIND-NUMBER.png``, and a file that is none."""
    folder.mkdir()
    for kind, numbers in GALLERY.items():
        for number in numbers:
            shutil.copy(drawn / PART / f"test/{kind}/{number:03}.png", folder / f"{kind}-{number:03}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder


def along(mask: Path, count: int = 12) -> list[tuple[float, float]]:
    """Places along a defect, from one end to the other, in pixels."""
    rows, columns = np.nonzero(np.asarray(Image.open(mask).convert("L")))
    points = np.stack([columns, rows], 1).astype(float)
    middle = points.mean(0)
    axis = np.linalg.svd(points - middle, full_matrices=False)[2][0]
    ordered = points[np.argsort((points - middle) @ axis)]
    return [(float(x), float(y)) for x, y in (part.mean(0) for part in np.array_split(ordered, count))]


@contextmanager
def served(model: Path, *options: object) -> Iterator[str]:
    """A server process; gives its address."""
    command = [sys.executable, "-W", "ignore", "-c", SERVE, "app", str(model), "--port", "0", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as process:
        assert process.stdout is not None
        try:
            greeting = process.stdout.readline()
            found = re.search(r"http://\S+", greeting)
            assert found, f"the server did not start: {greeting!r}"
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


class Tab:
    """A tab of the browser on the page, and what a person does in it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.strangers: list[str] = []
        self.faults: list[str] = []
        page.on("request", self._request)
        page.on("websocket", lambda socket: self.strangers.append(socket.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._console)
        page.goto(address)
        self.scored()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:" + self.address.rstrip("/"))):
            self.strangers.append(request.url)

    def _console(self, message: Any) -> None:
        # A file that is no image has no thumbnail, which the browser reports in its own words.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def ask(self, path: str) -> Any:
        """What the server answers this tab's session."""
        script = """async (path) => {
            const headers = { "X-Nagl-Session": sessionStorage.getItem("nagl.session") };
            return (await fetch(path, { headers })).json();
        }"""
        return self.page.evaluate(script, path)

    def scored(self) -> dict[str, float]:
        """Wait until every image is scored; returns the scores by name."""
        end = time.monotonic() + 90
        while self.ask("/api/state")["gallery"]["waiting"]:
            assert time.monotonic() < end, "scoring took too long"
            time.sleep(0.1)
        items = self.ask("/api/gallery?limit=500")["items"]
        return {one["name"]: one["score"] for one in items if one["status"] == "scored"}

    def card(self, name: str) -> Any:
        """The card of an image in the gallery."""
        return self.page.locator(".card", has_text=name)

    def open(self, name: str) -> None:
        """Click an image of the gallery and wait until it is seen."""
        self.page.locator("#scroller").evaluate("(one) => one.scrollTo(0, 0)")
        self.card(name).click()
        self.shown(name)

    def shown(self, name: str) -> None:
        """Wait until an image is open."""
        self.page.locator("#facts .file", has_text=name).wait_for()
        self.page.locator("#stage-words").wait_for(state="hidden")

    def score(self) -> float:
        """The score that is shown of the open image."""
        return float(self.page.locator("#facts .verdict .big").inner_text())

    def shows(self, score: float) -> None:
        """Wait until that is the score that is shown of the open image."""
        self.page.locator("#facts .verdict .big", has_text=f"{score:.3f}").wait_for()

    def verdict(self, word: str) -> None:
        """Wait until that is the verdict on the open image."""
        self.page.locator("#facts .verdict .badge", has_text=word).wait_for()

    def said(self, text: str) -> None:
        """Wait until the page says something at its foot."""
        self.page.locator("#said.shown", has_text=text).wait_for(timeout=60_000)

    def tool(self, name: str) -> None:
        """Take a tool."""
        self.page.locator(f"button[data-tool={name}]").click()

    def draw(self, points: Sequence[tuple[float, float]], side: int = 192) -> None:
        """Draw with the tool over places of the whole picture, which is square."""
        box = self.page.locator("#stage").bounding_box()
        scale = (min(box["width"], box["height"]) - 24) / side
        left, top = (box[at] + (box[length] - side * scale) / 2 for at, length in (("x", "width"), ("y", "height")))
        places = [(left + x * scale, top + y * scale) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places:
            self.page.mouse.move(*place)
        self.page.mouse.up()

    def view(self, name: str) -> None:
        """Go to another view."""
        self.page.locator(f"#tabs a[href='#/{name}']").click()
        self.page.locator(f"#view-{name}").wait_for()

    def step(self, name: str) -> None:
        """Press Undo, Redo, Discard or Save."""
        self.page.locator(f"#{name}:enabled").click()

    def picture(self, name: str) -> None:
        """Keep a picture of the page, if somebody asked for them."""
        if PICTURES:
            self.page.locator("#said.shown").wait_for(state="hidden")
            self.page.mouse.move(5, 75)  # over nothing that would change its look
            self.page.screenshot(path=Path(PICTURES) / f"{name}.png")

    def check(self) -> None:
        """Nothing was asked of anybody else, and no script failed."""
        assert not self.strangers
        assert not self.faults
