"""Time and memory of an image in windows, against one window by itself, and whether runtimes agree.

    python examples/benchmarks/windows_cost.py --backbone mobilenetv2_100 --random --size 2100 4500

A model of one normal and one abnormal reference, textures of no meaning, scores an image in torch, by anomalib's
OpenVINOInferencer and by NaglEdge, each in a process of its own, which loads what it needs and no more: the median time
of an image, and the largest resident memory with libraries. Images are given as a camera does, 8 bits for each colour.
``ratio`` is the time over that of one window times the number of windows, the overview included, by the clock and by
the time of processors, which a busy machine disturbs less; ``scores`` and ``labels`` are those of an image without and
with a defect.
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

import numpy as np
from memory import peak_memory
from numpy.typing import NDArray

Answer = tuple[float, bool | None]
RUNTIMES = ("torch", "OpenVINOInferencer", "NaglEdge")
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def picture(size: tuple[int, int], seed: int, defect: bool = False) -> NDArray[np.uint8]:
    """A texture (H, W, 3), with a white square or without."""
    import torch

    coarse = torch.rand(1, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
    if defect:
        image[:, size[0] // 2 : size[0] // 2 + 40, size[1] // 2 : size[1] // 2 + 40] = 1
    pixels: NDArray[np.uint8] = (255 * image).round().byte().permute(1, 2, 0).contiguous().numpy()
    return pixels


def as_tensor(image: NDArray[np.uint8]) -> Any:
    """Pixels (H, W, 3) as (3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div_(255)


def export(given: argparse.Namespace, size: tuple[int, int], cut: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a model for images of a size as torch and OpenVINO files; says how many windows it has."""
    import machine
    import torch

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
    normal, abnormal = as_tensor(picture(size, 1)), as_tensor(picture(size, 2, True))
    model.set_references(ReferenceSet([normal], [abnormal], [mask]))
    took = time.perf_counter() - start
    model.to_torch(folder, "model")
    model.to_openvino(folder, "model")
    for name, defect in (("good", False), ("defective", True)):
        np.save(folder / f"{name}.npy", picture(size, 3, defect))
    encoder = model.model.encoder
    count = 1 if encoder.cut is None else len(encoder.plan.corners) + encoder.cut.overview
    return {"windows": count, "patches": encoder.grid[0] * encoder.grid[1], "references take s": round(took, 1)}


def scorer(runtime: str, folder: Path) -> Callable[[NDArray[np.uint8]], Answer]:
    """Something that scores images (H, W, 3), as a program would."""
    if runtime == "torch":
        import torch

        model = torch.load(folder / "weights" / "torch" / "model.pt", weights_only=False)["model"].eval()

        def in_torch(image: NDArray[np.uint8]) -> Answer:
            with torch.inference_mode():
                found = model(as_tensor(image)[None])
            return float(found.pred_score), bool(found.pred_label)

        return in_torch
    path = folder / "weights" / "openvino" / "model.xml"
    if runtime == "NaglEdge":
        from anomalib_nagl.edge import NaglEdge

        detector = NaglEdge(path)

        def on_box(image: NDArray[np.uint8]) -> Answer:
            found = detector.predict(image)
            return found.score, found.label

        return on_box
    from anomalib.deploy import OpenVINOInferencer

    inferencer = OpenVINOInferencer(path=path, device="CPU", config=EXACT)

    def in_openvino(image: NDArray[np.uint8]) -> Answer:
        found = inferencer.predict(image)
        return float(found.pred_score.reshape(())), bool(found.pred_label.reshape(()))

    return in_openvino


def measure(runtime: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Median time, time of the first image, peak memory, scores and labels, in this process."""
    score, good, start = scorer(runtime, folder), np.load(folder / "good.npy"), time.perf_counter()
    answers, took, busy = [score(good)], [time.perf_counter() - start], []
    for _ in range(repeats):
        start, began = time.perf_counter(), time.process_time()
        score(good)
        took.append(time.perf_counter() - start)
        busy.append(time.process_time() - began)
    answers.append(score(np.load(folder / "defective.npy")))
    scores, labels = zip(*answers, strict=True)
    facts = {
        "seconds": statistics.median(took[1:]),
        "busy": statistics.median(busy),
        "first": took[0],
        "MB": peak_memory(),
    }
    return {**facts, "scores": scores, "labels": labels}


def in_process(runtime: str, folder: Path, repeats: int) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", runtime, str(folder)]
    command += ["--repeats", str(repeats)]
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
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]), given.repeats)))
        return
    import machine
    from rich.console import Console

    console = Console(width=160)
    console.print(machine.describe())
    with tempfile.TemporaryDirectory() as place:
        one, many = Path(place) / "one", Path(place) / "many"
        window = (given.window, given.window)
        export(given, window, {"image_size": given.window}, one)
        facts = export(given, size, {"window": given.window, "overlap": given.overlap}, many)
        console.print(f"{size[0]} x {size[1]}, {given.backbone}, bank of {given.bank}: {facts}", highlight=False)
        for runtime in given.runtimes:
            single, whole = (
                in_process(runtime, folder, repeats) for folder, repeats in ((one, 20), (many, given.repeats))
            )
            ratio, busy = (whole[kind] / (single[kind] * facts["windows"]) for kind in ("seconds", "busy"))
            console.print(
                f"{runtime:20s} one window {1000 * single['seconds']:.1f} ms, all {whole['seconds']:.2f} s "
                f"(first {whole['first']:.2f}), ratio {ratio:.2f}, of CPU time {busy:.2f}, {whole['MB']:.0f} MB, "
                f"scores {whole['scores'][0]:.5f} {whole['scores'][1]:.5f}, labels {whole['labels']}",
                highlight=False,
            )  # fmt: skip


if __name__ == "__main__":
    main()
