"""What a few pictures of defects are worth, in a minute: compare, export, predict with OpenVINO, save an image.

    python examples/quickstart.py [--out DIR] [--seed NUMBER]

Every step is a command that `anomalib` knows; the log in DIR holds what they print. The parts are drawn by the package,
and nothing is trained. The figures hold for drawn parts; the results page of the manual has those of real ones.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from anomalib.cli.cli import AnomalibCLI
from anomalib.deploy import OpenVINOInferencer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from anomalib_nagl import Nagl, ReferenceVisualizer
from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.io import arrays as io
from anomalib_nagl.io.panel import beside, draw, draw_panel, stack
from anomalib_nagl.io.prediction_table import PredictionRow
from anomalib_nagl.io.prediction_text import line, picture_of

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"
PARTS = ("plate", "board", "plug")
KINDS = ("scratch", "spot", "missing")
RESULTS = Path("results/Nagl/DrawnPictures")
METRICS = ("image_AUROC", "pixel_AUROC")


class Inspected(NamedTuple):
    """An image (H, W, 3) with what the exported model says of it: its row and map (h, w), and what is true (H, W)."""

    row: PredictionRow
    pixels: NDArray[np.uint8]
    map: NDArray[np.float32]
    truth: NDArray[np.bool_]


def anomalib(*arguments: object) -> dict[str, float]:
    """Run ``anomalib ARGUMENTS``, its output into the log; returns the metrics it reported."""
    with Path("log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        print("\n$ anomalib", *arguments, flush=True)
        cli = AnomalibCLI(args=[str(argument) for argument in arguments])
        return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


def arguments(part: str, seed: int) -> tuple[object, ...]:
    """What every training is told."""
    return (
        "--config", CONFIG, "--data.target.category", part, "--data.target.seed", seed, "--data.seed", seed,
        "--model.visualizer", "false",  # an image for every tested image takes longer than testing it
    )  # fmt: skip


def compare(seed: int) -> NDArray[np.float64]:
    """Metrics (part, without or with defective references, metric) of models of one good image."""
    found = []
    for part in PARTS:
        cells = [anomalib("train", *arguments(part, seed), "--data.n_abnormal", shown) for shown in (0, 3)]
        found.append([[cell[metric] for metric in METRICS] for cell in cells])
    return np.array(found)


def table_of(found: NDArray[np.float64]) -> Table:
    """The metrics of ``compare`` as a person reads them."""
    table = Table(title="AUROC of images / of pixels (1 is perfect)")
    for column in ("part", "1 good picture", "and 3 of defects"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, row in zip((*PARTS, "mean"), (*found, found.mean(axis=0)), strict=True):
        table.add_row(
            part, *(" / ".join(f"{value:.3f}" for value in cell) for cell in row), end_section=part == PARTS[-1]
        )
    return table


def checkpoint(part: str) -> Path:
    """Where the last run on a part left its checkpoint."""
    return RESULTS / part / "latest/weights/lightning/model.ckpt"


def export(part: str, seed: int) -> Path:
    """Take seven good images more, which tell where the threshold lies, and export the model; returns the file."""
    anomalib("train", *arguments(part, seed), "--data.n_normal", 8)
    known = ("--model", "Nagl", "--ckpt_path", checkpoint(part))
    anomalib("export", *known, "--export_type", "openvino", "--export_root", "export")
    return Path("export/weights/openvino/model.xml")


def shown(part: str) -> list[str]:
    """The largest defect of each kind that is no reference, and a good image: names below the folder of tests."""
    root = Path("datasets/drawn") / part
    known = {Path(record["name"]).resolve() for record in Nagl.load_from_checkpoint(checkpoint(part)).references}
    names = []
    for kind in KINDS:
        new = [path for path in sorted((root / "test" / kind).glob("*.png")) if path.resolve() not in known]
        largest = max(new, key=lambda path: io.read_mask(mask_of(path)).sum())
        names.append(f"{kind}/{largest.stem}")
    return [*names, "good/000"]


def mask_of(image: Path) -> Path:
    """Where the mask of a test image lies, if it has one."""
    return image.parents[2] / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"


def inspect(part: str, exported: Path) -> list[Inspected]:
    """Score images that are no references with the exported file alone."""
    inferencer = OpenVINOInferencer(exported, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    inspected = []
    for name in shown(part):
        path = Path("datasets/drawn") / part / "test" / f"{name}.png"
        pixels = io.read_image(path)
        found = inferencer.predict(pixels.astype(np.float32) / 255)
        values = np.array(found.anomaly_map, np.float32).reshape(found.anomaly_map.shape[-2:])
        truth = io.read_mask(mask_of(path)) if mask_of(path).exists() else np.zeros(pixels.shape[:2], bool)
        score = float(np.array(found.pred_score).item())
        row = judge(f"{part}/{name}.png", Found(score, values), pixels.shape[:2], Rules(0.5, 0.5))
        inspected.append(Inspected(row, pixels, values, truth))
    return inspected


def picture(part: str, inspected: list[Inspected]) -> Image.Image:
    """The references on top, below them each image with its map and verdict."""
    panels = ReferenceVisualizer(3).reference_panels(Nagl.load_from_checkpoint(checkpoint(part)))
    known = beside([draw_panel(panel) for panel in panels[2:]])  # a good one of eight, and the three of defects
    rows = [draw(picture_of(one.row, one.pixels, one.map, 0.5, truth=one.truth)) for one in inspected]
    return stack([known, *rows])


def main() -> None:
    """Run all steps, saying what is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/quickstart"), help="folder for everything written")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn pictures, and of which are references")
    options = parser.parse_args()
    out, program = options.out.resolve(), Path(sys.executable).parent / "anomalib-nagl"
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they would not write to the log, but here
    console = Console()
    console.print("[bold]1/3[/] One good picture of each part, then three of defects as well ...")
    console.print(table_of(compare(options.seed)))
    part = PARTS[-1]
    console.print(f"[bold]2/3[/] Exporting {part} with these and seven more good pictures to OpenVINO ...")
    exported = export(part, options.seed)
    console.print("[bold]3/3[/] Inspecting new pictures with the exported file ...")
    inspected = inspect(part, exported)
    for one in inspected:
        console.print(f"    {line(one.row)}", highlight=False)
    picture(part, inspected).save("quickstart.png")
    for label, path in (("Picture", "quickstart.png"), ("Model", exported), ("Log", "log.txt")):
        console.print(f"{label + ':':9}{out / path}", soft_wrap=True)
    console.print("\nNext, your own part: put good pictures into my_part/good, defective ones into")
    console.print("my_part/defects, their masks (white on the defect) into my_part/masks, and type")
    console.print(f"  {program} inspect NEW_PICTURES --references my_part", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
