"""The whole way in a minute: train a head, show it new parts, compare, export, predict with OpenVINO, save an image.

    python examples/quickstart.py [--out DIR]

Every step is a command that `anomalib` knows; the log in DIR holds what they print. Everything is drawn and computed
here: images by the package itself, features by a filter bank. The figures say that the machinery works, not how good
NAGL is with a real backbone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from pathlib import Path

import numpy as np
from anomalib.cli.cli import AnomalibCLI
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from rich.console import Console
from rich.table import Table

from anomalib_nagl import Nagl, ReferenceVisualizer
from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.io import arrays as io
from anomalib_nagl.io.panel import draw, stack
from anomalib_nagl.io.prediction_text import picture_of

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
PARTS = ("plate", "board", "plug")
SHOWN = ("scratch/000", "spot/001", "missing/002", "good/003")
RESULTS = Path("results/Nagl/DrawnPictures")
QUIET = ("--model.visualizer", "false")  # an image for every tested image takes longer than testing it
METRICS = ("image_AUROC", "pixel_AUROC")


def anomalib(*arguments: object) -> dict[str, float]:
    """Run ``anomalib ARGUMENTS``, its output into the log; returns the metrics it reported."""
    with Path("log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        print("\n$ anomalib", *arguments, flush=True)
        cli = AnomalibCLI(args=[str(argument) for argument in arguments])
        return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


def checkpoint(part: str) -> Path:
    """Where the last run on a part left its checkpoint."""
    return RESULTS / part / "latest/weights/lightning/model.ckpt"


def compare(head: Path) -> Table:
    """Adapt the head to each part with one good image, and with one good and one defective one."""
    table = Table(title="Parts the head has never seen, image / pixel AUROC (the higher the better)")
    for column in ("part", "1 normal reference", "1 normal + 1 abnormal"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = []
    for part in PARTS:
        common = ("train", "--config", CONFIG, "--model.head", head, "--data.target.category", part, *QUIET)
        cells = [anomalib(*common, "--data.n_abnormal", shots) for shots in (0, 1)]
        rows.append([[cell[metric] for metric in METRICS] for cell in cells])
        table.add_row(part, *(" / ".join(f"{value:.3f}" for value in cell) for cell in rows[-1]))
    mean = np.mean(rows, axis=0)
    table.add_section()
    table.add_row("mean", *(" / ".join(f"{value:.3f}" for value in cell) for cell in mean))
    return table


def predict(part: str, exported: Path) -> Image.Image:
    """Score images with the exported file alone; a picture of each, the references beside it."""
    inferencer = OpenVINOInferencer(exported, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    panels = ReferenceVisualizer().reference_panels(Nagl.load_from_checkpoint(checkpoint(part)))
    drawn = []
    for name in SHOWN:
        root = Path("datasets/drawn") / part
        pixels = io.read_image(root / "test" / f"{name}.png")
        found = inferencer.predict(pixels.astype(np.float32) / 255)
        values = np.array(found.anomaly_map, np.float32).reshape(found.anomaly_map.shape[-2:])
        mask = root / "ground_truth" / f"{name}_mask.png"
        truth = io.read_mask(mask) if mask.exists() else None
        row = judge(name, Found(float(np.array(found.pred_score).item()), values), pixels.shape[:2], Rules(0.5, 0.5))
        drawn.append(draw(picture_of(row, pixels, values, 0.5, truth=truth, references=panels)))
    return stack(drawn)


def main() -> None:
    """Run all steps, saying what is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/quickstart"), help="folder for everything written")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they would not write to the log, but here
    console = Console()
    console.print("[bold]1/4[/] Training a head on three drawn textures (cloth, brushed metal, wood) ...")
    anomalib("train", "--config", CONFIG, *QUIET)
    head = checkpoint(PARTS[0]).resolve()
    console.print("[bold]2/4[/] Adapting it to three drawn parts: no training, one or two reference images ...")
    console.print(compare(head))
    part = PARTS[-1]
    console.print(f"[bold]3/4[/] Exporting {part} to OpenVINO ...")
    anomalib(
        "export",
        "--model",
        "Nagl",
        "--ckpt_path",
        checkpoint(part),
        "--export_type",
        "openvino",
        "--export_root",
        "export",
    )
    exported = Path("export/weights/openvino/model.xml")
    console.print("[bold]4/4[/] Predicting with the exported file ...")
    predict(part, exported).save("quickstart.png")
    for label, path in (("Image", "quickstart.png"), ("Model", exported), ("Head", head), ("Log", "log.txt")):
        console.print(f"{label + ':':9}{out / path}", soft_wrap=True)


if __name__ == "__main__":
    main()
