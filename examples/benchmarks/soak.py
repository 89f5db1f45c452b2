"""What a box needs after thousands of images of ever new sizes: memory, and time per image.

    python examples/benchmarks/soak.py --backbone gabor --size 224

Memory is sampled while ``NaglEdge`` scores images of ever new sizes; growth in the second half is what would go on for
years. Then 200 more are scored twice in turn: the first time their sizes are new. ``--in-graph`` measures the graph of
``model.xml`` instead, which resizes inside, as other programs run it.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import psutil
import torch
from machine import describe, random_weights

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.edge import NaglEdge

Score = Callable[[np.ndarray], Any]


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="gabor")
    parser.add_argument("--random-weights", action="store_true", help="the backbone with weights that mean nothing")
    parser.add_argument("--size", type=int, default=224, help="network input")
    parser.add_argument("--images", type=int, default=3000, help="of ever new sizes")
    parser.add_argument("--sides", type=int, nargs=2, default=(60, 400), help="shortest and longest side of an image")
    parser.add_argument("--in-graph", action="store_true", help="resize in the graph, as other programs do")
    return parser.parse_args()


def export(backbone: str, weights: str | None, size: int, folder: Path) -> Path:
    """A model with random references; its ``model.xml``."""
    torch.manual_seed(0)
    model = Nagl(backbone, backbone_weights=weights, image_size=size, variant="extended-proxies").eval()
    masks = torch.zeros(1, size, size)
    masks[:, : size // 2, : size // 2] = 1
    model.set_references(ReferenceSet((torch.rand(3, size, size),), (torch.rand(3, size, size),), tuple(masks)))
    return model.to_openvino(folder)


def scorer(path: Path, in_graph: bool) -> Score:
    """What scores an image (H, W, 3) of 8 bits."""
    if not in_graph:
        return NaglEdge(path).predict
    graph = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: graph(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def soak(score: Score, images: list[np.ndarray]) -> list[float]:
    """Resident memory in MB after every twentieth of the images."""
    process, found = psutil.Process(), []
    for i, image in enumerate(images, 1):
        score(image)
        if i % max(len(images) // 20, 1) == 0:
            found.append(process.memory_info().rss / 2**20)
    return found


def timed(score: Score, image: np.ndarray) -> float:
    """Milliseconds of one image."""
    start = time.perf_counter()
    score(image)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    chosen = options()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    generator = np.random.default_rng(0)
    sides = generator.integers(*chosen.sides, (chosen.images + 200, 2))
    noise = generator.integers(0, 256, (chosen.sides[1], chosen.sides[1], 3), dtype=np.uint8)
    images = [noise[:height, :width] for height, width in sides]
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(chosen.backbone, Path(folder)) if chosen.random_weights else None
        score = scorer(export(chosen.backbone, weights, chosen.size, Path(folder)), chosen.in_graph)
        memory = soak(score, images[: chosen.images])
        pairs = [(timed(score, image), timed(score, image)) for image in images[chosen.images :]]
    half = memory[len(memory) // 2 - 1]
    new, seen = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{describe()}, openvino {openvino.__version__.partition('-')[0]}")
    print(
        f"{chosen.backbone} at {chosen.size}, {chosen.images} sizes, sides from {chosen.sides[0]} to {chosen.sides[1]}"
    )
    print("memory in MB: " + " ".join(f"{value:.0f}" for value in memory))
    print(f"second half: {memory[-1] - half:+.0f} MB, {100 * (memory[-1] / half - 1):+.1f} %")
    print(f"a size seen before {seen:.2f} ms, a new one {new:.2f} ms an image, {100 * (new / seen - 1):+.1f} %")


if __name__ == "__main__":
    main()
