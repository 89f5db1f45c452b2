"""What an exported model costs and keeps on this machine: time, size, deviation, and learning a defect.

    python examples/benchmarks/edge.py --backbone local-dir:weights/FOLDER --size 448 224 --data datasets/real_small

Every way of running is timed in turn, over and over, so that whatever else the machine does hits all of them alike; a
ratio is that of medians of one run. Without --data the images are noise, and only times and sizes mean anything. A
head that was not trained (no --head) costs the same as a trained one. ``--random-weights`` stands in for a backbone
that cannot be fetched.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.references.images import load_image, load_mask

F32: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
FILES = {"FP32": None, "FP16": "FP16", "INT8": "INT8", "INT8_PTQ": "INT8_PTQ"}
RUNS = [("FP32", F32), ("FP32", {}), ("FP16", {}), ("INT8", F32), ("INT8", {}), ("INT8_PTQ", F32), ("INT8_PTQ", {})]


@dataclass
class Pictures:
    """References, and images to score with their labels; noise without a data folder."""

    references: ReferenceSet
    queries: list[Tensor]
    labels: list[int]

    @classmethod
    def read(cls, category: Path, limit: int) -> Pictures:
        """One normal and one abnormal reference of a folder in MVTec's layout, and other test images of it."""
        good = sorted((category / "train/good").iterdir())
        kinds = sorted(path for path in (category / "test").iterdir() if path.name != "good")
        mask = next((category / "ground_truth" / kinds[0].name).glob(f"{sorted(kinds[0].iterdir())[0].stem}*"))
        defect = sorted(kinds[0].iterdir())[0]
        bad = [path for kind in kinds for path in sorted(kind.iterdir()) if path != defect]
        chosen = sorted((category / "test/good").iterdir())[: limit // 2] + bad[:: max(1, 2 * len(bad) // limit)]
        references = ReferenceSet((load_image(good[0]),), (load_image(defect),), (load_mask(mask, defect.name),))
        return cls(references, [load_image(path) for path in chosen], [path.parent.name != "good" for path in chosen])

    @classmethod
    def noise(cls, size: int, limit: int) -> Pictures:
        """Images that say nothing, for times and sizes alone."""
        images = [torch.rand(3, size, size) for _ in range(limit)]
        mask = torch.zeros(size, size)
        mask[: size // 4, : size // 4] = 1
        return cls(ReferenceSet((images[0],), (images[1],), (mask,)), images[2:], [i % 2 for i in range(limit - 2)])

    def setup(self, stage: str) -> None:
        """Nothing to prepare: these images also stand in for a datamodule when a model is quantised."""

    def val_dataloader(self) -> Iterator[ImageBatch]:
        """Images to calibrate with."""
        return (ImageBatch(image=image[None]) for image in self.queries[:24])


def main() -> None:
    """Measure every backbone at every size, and print a table for each."""
    options = _options()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    print(f"{_processor()}, {options.threads} threads, torch {torch.__version__}, OpenVINO {openvino.__version__}\n")
    for backbone in options.backbone:
        for size in options.size:
            with tempfile.TemporaryDirectory() as folder:
                measure(backbone, size, options, Path(folder))


def measure(backbone: str, size: int, options: argparse.Namespace, folder: Path) -> None:
    """Export one model in every way, time the ways in turn, and print the table."""
    pictures = Pictures.read(options.data / options.category, options.images) if options.data else Pictures.noise(
        size, options.images
    )  # fmt: skip
    model = build(backbone, size, options, pictures)
    files = {}
    for name, kind in FILES.items():
        compression = CompressionType[kind] if kind else None
        files[name] = model.to_openvino(folder / name, compression_type=compression, datamodule=pictures)
    core = openvino.Core()
    runs: dict[str, Callable[[Tensor], Any]] = {
        "torch f32": torch.inference_mode()(lambda image: model(image)._asdict())
    }
    for name, hint in RUNS:
        compiled = core.compile_model(files[name], "CPU", {**hint, "INFERENCE_NUM_THREADS": options.threads})
        runs[f"OpenVINO {name}, {'f32' if hint else 'default'}"] = lambda image, graph=compiled: graph(image.numpy())
    times = time_in_turn(runs, pictures.queries[0][None], options.repeats)
    answers = {name: [run(image[None]) for image in pictures.queries] for name, run in runs.items()}
    print(f"### {backbone.rpartition('/')[2]} at {size} pixels, {len(pictures.queries)} images\n")
    print("| way | median ms | p95 ms | of torch | MB | score off by | map off by | labels flipped | image AUROC |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, taken in times.items():
        file = files.get(name.partition(" ")[2].partition(",")[0])
        megabytes = _megabytes(file) if file else sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6
        print(_row(name, taken, times["torch f32"], megabytes, answers, pictures.labels))
    measure_box(files["FP32"], pictures, options)


def build(backbone: str, size: int, options: argparse.Namespace, pictures: Pictures) -> Nagl:
    """A model with references, and thresholds in the middle of the scores, where normalising cuts none off."""
    # With a head, trained or not: its time is part of what is measured.
    variant = None if options.head else "extended"
    model = Nagl(backbone=backbone, image_size=size, variant=variant, head=options.head).eval()
    if options.random_weights:
        torch.manual_seed(0)
        for parameter in model.model.encoder.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        model.model.encoder._weights_arrived()
    model.set_references(pictures.references)
    with torch.inference_mode():
        raw = [model.model(model.pre_processor(image[None])) for image in pictures.queries]
    for kind, found in (("image", [r.pred_score for r in raw]), ("pixel", [r.anomaly_map.flatten() for r in raw])):
        values = torch.cat(found)
        getattr(model.post_processor, f"{kind}_min").fill_(values.min())
        getattr(model.post_processor, f"{kind}_max").fill_(values.max())
        getattr(model.post_processor, f"_{kind}_threshold").fill_((values.min() + values.max()) / 2)
    return model


def time_in_turn(runs: dict[str, Callable[[Tensor], Any]], image: Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every run, after two to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def measure_box(path: Path, pictures: Pictures, options: argparse.Namespace) -> None:
    """Print what NaglEdge takes to start, to learn a defect, and to score many images."""
    image, mask = (tensor.numpy() for tensor in (pictures.references.abnormal[0], pictures.references.masks[0]))
    image = np.ascontiguousarray(image.transpose(1, 2, 0))
    code = (
        "import sys, numpy; from anomalib_nagl.edge import NaglEdge\n"
        "NaglEdge(sys.argv[1]).predict(numpy.zeros((64, 64, 3), numpy.uint8))"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    print(f"\nStart to first answer, a new process: {time.perf_counter() - start:.2f} s.")
    detector = NaglEdge(path)
    first = _milliseconds(lambda: detector.add_abnormal(image, mask, "first"))
    encoding, adding, changing = [], [], []
    for turn in range(options.repeats):
        encoding.append(_milliseconds(lambda: detector.encode(image)))
        adding.append(_milliseconds(lambda name=f"{turn}": detector.add_abnormal(image, mask, name)))
        changing.append(_milliseconds(lambda name=f"{turn}": detector.remove(name)))
    encode, add = statistics.median(encoding), statistics.median(adding)
    print(f"Adding a defect: {add:.0f} ms, of which one encoder pass {encode:.0f} ms: {add - encode:.0f} ms more.")
    print(f"The first one, which compiles: {first:.0f} ms. Removing one: {statistics.median(changing):.0f} ms.")
    many = [np.ascontiguousarray(query.numpy().transpose(1, 2, 0)) for query in pictures.queries[:16]]
    for requests in (1, 2, 4):
        queue = NaglEdge(path, requests=requests)
        list(queue.predict_all(many[:requests]))
        taken = _milliseconds(lambda detector=queue: list(detector.predict_all(many)))
        print(f"Asynchronous, {requests} at once: {1000 * len(many) / taken:.2f} images/s.")
    print()


def _row(
    name: str,
    taken: list[float],
    torch_taken: list[float],
    megabytes: float,
    answers: dict[str, Any],
    labels: list[int],
) -> str:
    expected, found = answers["torch f32"], answers[name]
    pairs = list(zip(expected, found, strict=True))
    off = {
        key: max(float(np.abs(np.asarray(a[key]) - np.asarray(b[key])).max()) for a, b in pairs)
        for key in ("pred_score", "anomaly_map")
    }
    flipped = sum(bool(a["pred_label"][0]) != bool(b["pred_label"][0]) for a, b in pairs)
    scores = torch.tensor([float(np.asarray(answer["pred_score"])[0]) for answer in found])
    auroc = float(binary_auroc(scores, torch.tensor(labels).int()))
    p95 = float(np.percentile(taken, 95))
    median = statistics.median(taken)
    return (
        f"| {name} | {median:.0f} | {p95:.0f} | {median / statistics.median(torch_taken):.2f} | {megabytes:.1f} | "
        f"{off['pred_score']:.2g} | {off['anomaly_map']:.2g} | {flipped} | {auroc:.3f} |"
    )


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _megabytes(path: Path) -> float:
    return sum(path.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin")) / 1e6


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {os.cpu_count()} cores"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", nargs="+", default=["vit_small_patch14_dinov2"])
    parser.add_argument("--random-weights", action="store_true", help="give the backbone random weights")
    parser.add_argument("--head", help="checkpoint of a trained head for this backbone")
    parser.add_argument("--size", type=int, nargs="+", default=[448, 224])
    parser.add_argument("--data", type=Path, help="folder of categories in MVTec's layout")
    parser.add_argument("--category", default="pcb_group_92000")
    parser.add_argument("--images", type=int, default=40, help="about so many test images")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


if __name__ == "__main__":
    main()
