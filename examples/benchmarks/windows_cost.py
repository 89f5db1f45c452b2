"""Time and memory of an image in windows, against one window by itself, and whether runtimes agree.

    python examples/benchmarks/windows_cost.py --backbone mobilenetv2_100 --random --size 2100 4500

A model of one normal and one abnormal reference, textures of no meaning, scores an image in torch, by anomalib's
OpenVINOInferencer and by NaglEdge, each in a process of its own: the median time of an image, and the largest resident
memory with libraries. ``ratio`` is the time over that of one window times the number of windows, the overview included;
``scores`` are those of an image without and with a defect.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from rich.console import Console

RUNTIMES = ("torch", "OpenVINOInferencer", "NaglEdge")
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def picture(size: tuple[int, int], seed: int, defect: bool = False) -> torch.Tensor:
    """A texture (3, H, W) in [0, 1], with a white square or without."""
    coarse = torch.rand(1, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
    if defect:
        image[:, size[0] // 2 : size[0] // 2 + 40, size[1] // 2 : size[1] // 2 + 40] = 1
    return image


def export(given: argparse.Namespace, size: tuple[int, int], cut: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a model for images of a size as torch and OpenVINO files; says how many windows it has."""
    from anomalib_nagl import Nagl
    from anomalib_nagl.references.reference_set import ReferenceSet

    weights = machine.random_weights(given.backbone, folder.parent) if given.random else None
    limit = None if given.bank == 0 else given.bank
    model = Nagl(
        backbone=given.backbone, backbone_weights=weights, variant="discriminant", bank_limit=limit, views="none", **cut
    ).eval()
    mask = torch.zeros(size)
    mask[size[0] // 2 : size[0] // 2 + 40, size[1] // 2 : size[1] // 2 + 40] = 1
    start = time.perf_counter()
    model.set_references(ReferenceSet([picture(size, 1)], [picture(size, 2, True)], [mask]))
    took = time.perf_counter() - start
    model.to_torch(folder, "model")
    model.to_openvino(folder, "model")
    encoder = model.model.encoder
    count = 1 if encoder.cut is None else len(encoder.plan.corners) + encoder.cut.overview
    return {"windows": count, "patches": encoder.grid[0] * encoder.grid[1], "references take s": round(took, 1)}


def scorer(runtime: str, folder: Path) -> Callable[[torch.Tensor], float]:
    """Something that scores images (3, H, W), as a program would."""
    if runtime == "torch":
        model = torch.load(folder / "weights" / "torch" / "model.pt", weights_only=False)["model"].eval()
        return lambda image: float(model(image[None]).pred_score)
    path = folder / "weights" / "openvino" / "model.xml"
    if runtime == "NaglEdge":
        from anomalib_nagl.edge import NaglEdge

        detector = NaglEdge(path)
        return lambda image: detector.predict(image.permute(1, 2, 0).numpy()).score
    from anomalib.deploy import OpenVINOInferencer

    inferencer = OpenVINOInferencer(path=path, device="CPU", config=EXACT)
    return lambda image: float(inferencer.predict(image.permute(1, 2, 0).numpy()).pred_score.reshape(()))


def measure(runtime: str, folder: Path, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Median time, peak memory and scores, in this process."""
    score, image, took = scorer(runtime, folder), picture(size, 3), []
    with torch.inference_mode():
        scores = [score(image), score(picture(size, 3, True))]
        for _ in range(repeats):
            start = time.perf_counter()
            score(image)
            took.append(time.perf_counter() - start)
    return {"seconds": statistics.median(took), "MB": machine.peak_memory(), "scores": scores}


def in_process(runtime: str, folder: Path, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", runtime, str(folder)]
    command += ["--size", *map(str, size), "--repeats", str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[2100, 4500], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--window", type=int, default=448)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--random", action="store_true", help="weights at random: times need no others")
    parser.add_argument("--bank", type=int, default=512, help="limit of the bank, 0 for none")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = (given.size[0], given.size[1])
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]), size, given.repeats)))
        return
    console = Console(width=140)
    console.print(machine.describe())
    with tempfile.TemporaryDirectory() as place:
        one, many = Path(place) / "one", Path(place) / "many"
        window = (given.window, given.window)
        export(given, window, {"image_size": given.window}, one)
        facts = export(given, size, {"window": given.window, "overlap": given.overlap}, many)
        console.print(f"{size[0]} x {size[1]}, {given.backbone}, bank of {given.bank}: {facts}", highlight=False)
        for runtime in given.runtimes:
            single, whole = (
                in_process(runtime, folder, shape, repeats)
                for folder, shape, repeats in ((one, window, 20), (many, size, given.repeats))
            )
            ratio = whole["seconds"] / (single["seconds"] * facts["windows"])
            console.print(
                f"{runtime:20s} one window {1000 * single['seconds']:.1f} ms, all {whole['seconds']:.2f} s, "
                f"ratio {ratio:.2f}, {whole['MB']:.0f} MB, scores {whole['scores'][0]:.5f} {whole['scores'][1]:.5f}",
                highlight=False,
            )  # fmt: skip


if __name__ == "__main__":
    main()
