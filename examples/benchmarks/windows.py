"""What windows are worth on large images with small defects, without any training.

    python examples/benchmarks/windows.py --data datasets/real_more --backbone builtin

Compared are the whole image squeezed into a square (``square``), the whole image with its aspect kept and as many
pixels as the square (``aspect``), windows alone (``windows``) and windows with the whole image beside them
(``overview``, with ``turned`` references too if ``--models`` names them), each also with other limits of the bank if
``--limits`` names some. For each draw of references: AUROC of images, how often the brightest spot of a map of a
defective image lies inside of its mask (``hit``), and the average precision of pixels, of all defects and of the
smallest, the middle and the largest third of them (among the good images and their own). Maps are compared at half the
size of the images. Every folder given is in MVTec's layout.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "--device=cpu" in sys.argv or ("--device" in sys.argv and sys.argv[sys.argv.index("--device") + 1] == "cpu"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks

import machine
import numpy as np
import pandas as pd
from rich.console import Console

from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.metrics import average_precision, count, image_metrics
from anomalib_nagl.evaluation.records import GOOD, Scored
from anomalib_nagl.evaluation.scorer import Scorer
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io.image_files import read_header
from anomalib_nagl.io.windows import nearest_multiples

PATCH = 16
MODELS = ["square", "aspect", "windows", "overview", "overview, turned"]
Row = dict[str, Any]


def size_of(folder: Path) -> tuple[int, int]:
    """The middle height and width of the good training images of a category."""
    sizes = [read_header(path).size for path in sorted((folder / "train" / "good").iterdir())]
    width, height = (int(np.median(sides)) for sides in zip(*sizes, strict=True))
    return height, width


def heads(size: tuple[int, int], given: argparse.Namespace) -> dict[str, Row]:
    """The models that are compared, for images of a size."""
    side, whole = given.window, list(nearest_multiples(size, PATCH))
    factor = (side * side / (size[0] * size[1])) ** 0.5
    aspect = list(nearest_multiples((round(size[0] * factor), round(size[1] * factor)), PATCH))
    cut = {"image_size": whole, "window": side, "overlap": given.overlap}
    found: dict[str, Row] = {
        "square": {"image_size": side},
        "aspect": {"image_size": aspect},
        "windows": {**cut, "overview": False},
        "overview": {**cut, "overview": True},
        "overview, turned": {**cut, "overview": True, "views": "turns"},
    }
    found = {name: arguments for name, arguments in found.items() if name in given.models}
    found |= {f"{name}, bank {n}": {**found[name], "bank_limit": n} for n in given.limits for name in list(found)}
    return {name: {"variant": "discriminant", **arguments} for name, arguments in found.items()}


def measured(scored: Scored) -> Row:
    """The figures of a draw."""
    bad = np.array([kind != GOOD for kind in scored.types])
    maps, masks = scored.maps.cpu().numpy(), scored.masks.cpu().numpy() != 0
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    hits = masks.reshape(len(masks), -1)[np.arange(len(masks)), peaks][bad]
    areas = masks.reshape(len(masks), -1).sum(axis=1)
    order = np.flatnonzero(bad)[np.argsort(areas[bad], kind="stable")]
    parts = zip(("small", "middle", "large"), np.array_split(order, 3), strict=True)
    good = np.flatnonzero(~bad)

    def precision(queries: Any) -> float:
        return average_precision(count(scored.maps[queries], masks[queries].astype(np.int32)))

    return {
        "image_AUROC": image_metrics(scored.scores, bad)["image_AUROC"],
        "hit": float(hits.mean()),
        "pixel_AP": precision(np.arange(len(bad))),
        **{f"AP {name}": precision(np.concatenate([good, part])) for name, part in parts},
    }


def evaluate(data: Path, name: str, backbone: str, given: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Rows of a category: every model on the same draws."""
    size = size_of(data / name)
    models = heads(size, given)
    settings = Settings(
        data=str(data), domains={name: [name]}, models=list(models), heads=models, shots=given.shots,
        backbone=backbone, image_size=[size[0] // 2, size[1] // 2], costs=False,
        compare_to=next(iter(models)), out=str(folder),
    )  # fmt: skip
    scorer = Scorer(settings)
    category = scorer.category(name)
    for model in models:
        for shots in settings.parsed_shots:
            for seed in range(given.seeds):
                start = time.perf_counter()
                draw = protocols.fixed(category, *shots, seed, settings.largest, content=scorer.content)
                scored = scorer.score(scorer.model(model), category, draw)
                took = time.perf_counter() - start
                about = {"backbone": Path(backbone).name, "category": name, "shots": f"{shots.n}+{shots.a}"}
                yield {**about, "model": model, "seed": seed, **measured(scored), "seconds": took}


def main() -> None:
    """Measure, write single runs, print means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--category", nargs="+", help="folders of it; all of them unless given")
    parser.add_argument("--backbone", nargs="+", default=["builtin"])
    parser.add_argument("--window", type=int, default=448, help="side of a window, of the square too")
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--shots", nargs="+", default=["1+1", "4+1"])
    parser.add_argument("--seeds", type=int, default=10, help="draws of references")
    parser.add_argument("--models", nargs="+", default=MODELS[:4], choices=MODELS)
    parser.add_argument("--limits", type=int, nargs="*", default=[], help="further limits of the bank")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/windows"))
    given = parser.parse_args()
    names = given.category or sorted(one.name for one in given.data.iterdir() if (one / "train").is_dir())
    given.out.mkdir(parents=True, exist_ok=True)
    console, found = Console(width=160), []
    for name in names:
        for backbone in given.backbone:
            with tempfile.TemporaryDirectory() as folder:
                for row in evaluate(given.data, name, backbone, given, Path(folder)):
                    found.append(row)
                    pd.DataFrame(found).to_csv(given.out / "windows.csv", index=False)
    frame = pd.DataFrame(found)
    console.print(machine.describe())
    order = ["backbone", "category", "shots", "model"]
    table = frame.groupby(order, sort=False).mean(numeric_only=True).drop(columns="seed")
    console.print(table.round(3).to_string(), highlight=False)
    console.print(f"Single runs in {given.out / 'windows.csv'}.")


if __name__ == "__main__":
    main()
