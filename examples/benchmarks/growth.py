"""What lessons cost as they become many: time of a query, time of a lesson, memory of the process.

    python examples/benchmarks/growth.py --backbone local-dir:PATH --image-size 448   # such as a MobileNetV2
    python examples/benchmarks/growth.py --backbone gabor

A box is taught drawn defects, each with a mask, one after the other. At every mark it is timed: a query (median of
several, encoder included), a lesson beside its encoder passes, a removal, and what the process holds. The ratios are
those to the first mark.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from anomalib_nagl.edge import NaglEdge

MARKS = (1, 10, 30, 100, 300, 1000)


def image(seed: int, size: int) -> np.ndarray:
    """A mosaic of random colours (H, W, 3) with some noise."""
    generator = np.random.default_rng(seed)
    mosaic = np.kron(generator.random((14, 14, 3)), np.ones((-(-size // 14), -(-size // 14), 1)))[:size, :size]
    return ((mosaic + 0.05 * generator.standard_normal(mosaic.shape)).clip(0, 1) * 255).astype(np.uint8)


def defect(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A texture with a patch of noise in it, and where that is."""
    generator, drawn = np.random.default_rng(seed), image(seed, size)
    side = size // 8
    top, left = generator.integers(0, size - side, 2)
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    noise = generator.integers(0, 255, (side, side, 3))
    drawn[top : top + side, left : left + side] = noise
    return drawn, mask


def export(backbone: str, size: int, head: bool, folder: str) -> None:
    """Export a model with one normal and one defective reference, in a process of its own: a box has no torch."""
    import torch

    from anomalib_nagl import Nagl, ReferenceSet

    variant = "extended" if head else "extended-proxies"
    model = Nagl(backbone=backbone, image_size=size, variant=variant, threshold=0.5).eval()
    model.head_trained = True  # a random head costs as much as a trained one
    normal, (drawn, mask) = image(0, size), defect(1, size)
    planes = [torch.from_numpy(one.transpose(2, 0, 1).copy()) / 255 for one in (normal, drawn)]
    model.set_references(ReferenceSet((planes[0],), (planes[1],), (torch.from_numpy(mask),)))
    model.to_openvino(Path(folder))


def milliseconds(call: object, times: int) -> float:
    """Median of several calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        found.append(time.perf_counter() - start)
    return 1000 * float(np.median(found))


def measure(detector: NaglEdge, taught: int, size: int) -> dict[str, float]:
    """The curves at one number of lessons; what is added here is removed again."""
    query = image(10_000, size)
    encode = milliseconds(lambda: detector.encode(query), 9)
    adding, removing = [], []
    for i in range(5):
        drawn, mask = defect(20_000 + i, size)
        start = time.perf_counter()
        detector.add_abnormal(drawn, mask, name=f"timed {taught} {i}")
        adding.append(1000 * (time.perf_counter() - start) - encode)
        start = time.perf_counter()
        detector.remove(f"timed {taught} {i}")
        removing.append(1000 * (time.perf_counter() - start))
    detector.predict(query)
    gc.collect()
    return {
        "query": milliseconds(lambda: detector.predict(query), 15),
        "lesson": float(np.median(adding)),
        "removal": float(np.median(removing)),
        "memory": psutil.Process().memory_info().rss / 1e6,
    }


def main() -> None:
    """Teach, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="gabor")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--lessons", type=int, default=MARKS[-1])
    parser.add_argument("--head", action="store_true", help="with a head, whose residual mining runs at each lesson")
    given = parser.parse_args()
    console, first = Console(), None
    table = Table("lessons", "query ms", "ratio", "lesson - encoder ms", "removal ms", "memory MB", "ratio", "start s")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (given.backbone, given.image_size, given.head, folder)
        exporting = multiprocessing.get_context("spawn").Process(target=export, args=arguments)
        exporting.start()
        exporting.join()
        path = Path(folder) / "weights/openvino/model.xml"
        detector = NaglEdge(path)
        for count in range(1, given.lessons + 1):
            drawn, mask = defect(100 + count, given.image_size)
            detector.add_abnormal(drawn, mask, name=f"lesson {count}")
            if count not in MARKS:
                continue
            found = measure(detector, count, given.image_size)
            first = first or found
            start = time.perf_counter()
            NaglEdge(path)
            started = time.perf_counter() - start
            table.add_row(
                str(count),
                f"{found['query']:.1f}",
                f"{found['query'] / first['query']:.2f}",
                f"{found['lesson']:.0f}",
                f"{found['removal']:.0f}",
                f"{found['memory']:.0f}",
                f"{found['memory'] / first['memory']:.2f}",
                f"{started:.2f}",
            )
            console.print(f"{count} lessons: {found}")
        size = detector.bank.stat().st_size / 1e6
    console.print(table, f"The bank has {size:.0f} MB.")


if __name__ == "__main__":
    main()
