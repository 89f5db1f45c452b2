"""What waiting at the page costs: from "Teach" to the new map, a gallery scored and scored again, memory.

    python examples/benchmarks/app.py --backbone local-dir:weights/mobilenetv2_100_tfsame --image-size 448

The server runs in this process and is asked as the page asks it, with a gallery of rendered images in the background.
An export is made first, in a process of its own: a box has no torch.
"""

from __future__ import annotations

import argparse
import base64
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from starlette.testclient import TestClient

from anomalib_nagl.edge.app.server import make_app
from anomalib_nagl.edge.app.workbench import Workbench
from anomalib_nagl.rendered.render import DEFECTS, render_image

PRODUCT, SCREEN = "plug", 60


def export(backbone: str, size: int, folder: str) -> None:
    """Export a model that knows four good parts."""
    import torch

    from anomalib_nagl import Nagl, ReferenceSet
    from anomalib_nagl.core.variants import HEAD_FREE

    rng = np.random.default_rng(0)
    good = [render_image(PRODUCT, "good", rng)[0] for _ in range(4)]
    model = Nagl(backbone=backbone, image_size=size, variant=HEAD_FREE).eval()
    model.set_references(ReferenceSet(tuple(torch.from_numpy(one.transpose(2, 0, 1).copy()) / 255 for one in good)))
    model.to_openvino(Path(folder))


def write_images(folder: Path, count: int) -> dict[str, np.ndarray]:
    """Render a gallery, half of it good; returns the masks of the defects by name."""
    rng, masks = np.random.default_rng(1), {}
    folder.mkdir()
    for i in range(count):
        kind = "good" if i % 2 else DEFECTS[i // 2 % len(DEFECTS)]
        pixels, mask = render_image(PRODUCT, kind, rng)
        name = f"{i:05}_{kind}.png"
        Image.fromarray(pixels).save(folder / name)
        if kind != "good":
            masks[name] = mask
    return masks


def as_data(mask: np.ndarray) -> str:
    """A mask as the page sends it."""
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


class Page:
    """What the page asks."""

    def __init__(self, client: TestClient) -> None:
        self._client = client
        self.ids = {one["name"]: one["id"] for one in self._all()}

    def _all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < (page := self.get("/api/gallery", offset=len(found), limit=500))["total"]:
            found += page["items"]
        return found

    def get(self, path: str, **query: Any) -> Any:
        """Ask for something."""
        return self._client.get(path, params=query).raise_for_status().json()

    def draft(self, call: str, **body: Any) -> Any:
        """Make a step."""
        return self._client.post(f"/api/draft/{call}", json=body).raise_for_status().json()

    def teach(self, name: str, mask: np.ndarray) -> float:
        """Teach a defect and fetch the new map; returns how long that took."""
        start = time.perf_counter()
        self.draft("teach", image=self.ids[name], mask=as_data(mask), type=name[6:-4])
        self._client.get(f"/api/images/{self.ids[name]}/map").raise_for_status()
        return time.perf_counter() - start

    def until(self, done: Callable[[], bool]) -> float:
        """Wait for something; returns how long."""
        start = time.perf_counter()
        while not done():
            time.sleep(0.25)  # as often as the page hears of it
        return time.perf_counter() - start

    def all_scored(self) -> bool:
        """Whether nothing of the gallery waits."""
        return self.get("/api/state")["gallery"]["waiting"] == 0

    def screen_scored(self) -> bool:
        """Whether what is on the screen is scored."""
        return all(one["status"] != "waiting" for one in self.get("/api/gallery", limit=SCREEN)["items"])


def measure(page: Page, masks: dict[str, np.ndarray], lessons: int, tell: Callable[[str], None]) -> None:
    """All figures; seconds of the processor too, which other programs on the machine do not change as much."""
    process = psutil.Process()

    def held() -> str:
        return f"{process.memory_info().rss / 1e6:.0f} MB, of which files {process.memory_info().shared / 1e6:.0f} MB"

    total = len(page.ids)
    page.until(page.all_scored)
    tell(f"{total} images encoded and scored {time.time() - process.create_time():.0f} s after the start")
    tell(f"the process holds {held()}")
    names = list(masks)
    worked = time.process_time()
    took = page.teach(names[0], masks[names[0]])
    lesson = time.process_time() - worked
    screen = page.until(page.screen_scored)
    rest = page.until(page.all_scored)
    worked = time.process_time() - worked
    tell(f"first lesson to its map: {took:.2f} s ({lesson:.2f} s of the processor)")
    tell(f"screen of {SCREEN} scored again {screen:.1f} s later")
    tell(f"{total} images scored again: {screen + rest:.1f} s ({worked - lesson:.1f} s of the processor)")
    start = time.perf_counter()
    page.draft("undo")
    page.until(page.all_scored)
    tell(f"undo, all scores back: {time.perf_counter() - start:.2f} s")
    times = [page.teach(name, masks[name]) for name in (names * (lessons // len(names) + 1))[:lessons]]
    few = min(10, lessons)
    for what, some in (("first", times[:few]), ("last", times[-few:])):
        tell(f"lesson to map, the {what} {few} of {lessons}: median {statistics.median(some):.2f} s, "
             f"longest {max(some):.2f} s, the gallery being scored meanwhile")  # fmt: skip
    tell(f"after {lessons} lessons in a draft the process holds {held()}")
    tell(f"all scored again after the last: {page.until(page.all_scored):.1f} s")
    start = time.perf_counter()
    page.draft("save")
    tell(f"saved in one transaction: {time.perf_counter() - start:.1f} s; the process holds {held()}")
    normal = next(one["uid"] for one in page.get("/api/references") if one["kind"] == "normal")
    page.draft("reference", uid=normal, active=False)
    page.draft("save")
    page.until(page.all_scored)
    worked = time.process_time()
    took = page.until(lambda: page.get("/api/state")["drift"]["compared"] == total)
    tell(f"one good reference less, all compared with the others for drift: {took:.1f} s after they were scored again "
         f"({time.process_time() - worked:.1f} s of the processor)")  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="gabor")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--lessons", type=int, default=200)
    given = parser.parse_args()
    console = Console(width=130)
    console.print(f"{psutil.cpu_count()} cores, {given.backbone}, {given.image_size} pixels")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        maker = multiprocessing.get_context("spawn").Process(
            target=export, args=(given.backbone, given.image_size, folder)
        )
        maker.start()
        maker.join()
        masks = write_images(room / "images", given.images)
        (room / "room").mkdir()
        bench = Workbench(room / "weights/openvino/model.xml", None, room / "images", room / "room")
        bench.start()
        try:
            page = Page(TestClient(make_app(bench), base_url="http://127.0.0.1:8765"))
            measure(page, masks, given.lessons, lambda line: console.print(line, highlight=False))
        finally:
            bench.close()


if __name__ == "__main__":
    main()
