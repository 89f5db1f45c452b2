"""The server of the page in this process, and somebody who asks it."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from anomalib_nagl.edge.app.server import make_app
from anomalib_nagl.edge.app.workbench import Workbench
from support.exported import defect_mask, picture, pixels

ADDRESS = "http://127.0.0.1:8765"
SIZE = (210, 260)


def write_images(folder: Path, good: int = 3, defective: int = 3) -> Path:
    """Images ``good_N.png`` and ``defect_N.png``, each defect at its own place, and a file that is no image."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(good):
        Image.fromarray(pixels(picture(SIZE, 60 + i))).save(folder / f"good_{i}.png")
    for i in range(defective):
        Image.fromarray(pixels(picture(SIZE, 80 + i, True))).save(folder / f"defect_{i}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder


def defect(i: int) -> str:
    """Where ``defect_i.png`` has its defect, as the page sends it."""
    return as_mask(defect_mask(SIZE, 80 + i).numpy())


def as_mask(marked: np.ndarray) -> str:
    """A mask as the page sends it."""
    return "data:image/png;base64," + base64.b64encode(png((marked > 0).astype(np.uint8) * 255)).decode()


def png(values: np.ndarray) -> bytes:
    """A PNG file."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


class Person:
    """Somebody with a session of their own."""

    def __init__(self, client: TestClient, session: str) -> None:
        self.client, self.headers = client, {"X-Nagl-Session": session}

    def get(self, path: str, **query: Any) -> Any:
        found = self.client.get(path, params=query, headers=self.headers)
        assert found.status_code == 200, (path, found.text)
        return found.json()

    def post(self, path: str, /, status: int = 200, **body: Any) -> Any:
        found = self.client.post(path, json=body, headers=self.headers)
        assert found.status_code == status, (path, found.text)
        return found.json()

    def draft(self, call: str, /, status: int = 200, **body: Any) -> Any:
        return self.post(f"/api/draft/{call}", status, **body)

    def item(self, name: str) -> Any:
        return next(one for one in self.get("/api/gallery")["items"] if one["name"] == name)

    def scores(self) -> dict[str, float]:
        """The score of every image, once all are scored."""
        wait(lambda: self.get("/api/state")["gallery"]["waiting"] == 0)
        return {one["name"]: one["score"] for one in self.get("/api/gallery")["items"] if one["score"] is not None}

    def teach(self, i: int, **more: Any) -> Any:
        """Teach the defect of ``defect_i.png``."""
        image = self.item(f"defect_{i}.png")["id"]
        return self.draft("teach", image=image, mask=defect(i), type="square", **more)


def wait(until: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something, or fail."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@contextmanager
def served(model: Path, images: Path | None, room: Path, **options: Any) -> Iterator[tuple[Workbench, TestClient]]:
    """The server with its background, and a client of it."""
    room.mkdir(exist_ok=True)
    bench = Workbench(model, None, images, room, author="line")
    bench.start()
    try:
        yield bench, TestClient(make_app(bench, **options), base_url=ADDRESS)
    finally:
        bench.close()
