"""What very many images cost: one process, one worker and two, all in one run, and the same lines from each.

    python examples/benchmarks/scale.py                      # 10,000 drawn images of 64 x 64 pixels
    python examples/benchmarks/scale.py --images 1000 --side 512 --partition 100 --kill

The model is a checkpoint of the references at the size of the images. ``--kill`` kills a worker in the middle of the
run with two. Everything lies in a folder that is removed at the end. One process is ``anomalib_nagl.inspect``, which
does as the command without ``--scheduler``, but draws no pictures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import machine
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table


def drawn(seed: int, side: int, defect: bool = False) -> tuple[Image.Image, Image.Image]:
    """A striped image with a little noise, and the mask of the square that is its defect."""
    chance = np.random.default_rng(seed)
    stripes = np.tile(np.sin(np.arange(side) / 2), (side, 1))
    grey = 150 + 40 * stripes + chance.normal(0, 5, (side, side))
    mask = np.zeros((side, side), bool)
    if defect:
        top, left = chance.integers(0, side - side // 5, 2)
        mask[top : top + side // 5, left : left + side // 5] = True
        grey[mask] = 30 + chance.normal(0, 20, mask.sum())
    pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return Image.fromarray(pixels), Image.fromarray(mask)


def write_images(root: Path, count: int, side: int) -> int:
    """References and so many new images, a third of them with a defect; returns the bytes of the new ones."""
    for kind in ("good", "defects", "masks"):
        (root / "references" / kind).mkdir(parents=True)
    for seed in range(4):
        drawn(seed, side)[0].save(root / f"references/good/{seed}.png")
    for seed in range(4, 6):
        image, mask = drawn(seed, side, defect=True)
        image.save(root / f"references/defects/{seed}.png")
        mask.save(root / f"references/masks/{seed}.png")
    for number in range(count):
        place = root / f"new/{number // 1000:03}/{number:06}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        drawn(1000 + number, side, number % 3 == 0)[0].save(place, compress_level=1)
    return sum(path.stat().st_size for path in (root / "new").rglob("*.png"))


def trained(root: Path, backbone: str, side: int) -> str:
    """Have a checkpoint made of the references, for images of one small size; returns its path."""
    command = [sys.executable, "-m", "anomalib_nagl.cli", "train", "--config", "own_parts"]
    options = {"data.references": "references", "model.backbone": backbone, "model.image_size": side}
    done = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items())], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return str(next((root / "results").rglob("model.ckpt")).relative_to(root))


ALONE = """
import sys
import time
from pathlib import Path
from anomalib_nagl import inspect
from anomalib_nagl.io.prediction_table import PredictionTable

inspect("references", model=sys.argv[1])  # everything is imported, and the images warm nothing but this
start = time.perf_counter()
rows = inspect("new", model=sys.argv[1])
print(time.perf_counter() - start)
with PredictionTable(Path("alone/predictions.csv")) as table:
    for row in rows:
        table.write(row)
"""


def alone(root: Path, model: str) -> tuple[float, float]:
    """Seconds of one process in all, and of the images alone, once it has started."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, model], cwd=root, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - start, float(done.stdout.split()[-1])


def inspect(root: Path, out: str, *options: str, kill: bool = False) -> float:
    """Seconds of the command; with ``kill`` one of its workers is killed once a partition is written."""
    command = [sys.executable, "-m", "anomalib_nagl.cli", "inspect", "new"]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = (root / f"{out}.txt").open("w")
    process = subprocess.Popen(
        [*command, "--out", out, *options], cwd=root, env=environment, stdout=output, stderr=output
    )
    if kill:
        threading.Thread(target=kill_a_worker, args=(process.pid, root / out / "partitions")).start()
    if process.wait():
        raise SystemExit((root / f"{out}.txt").read_text()[-2000:])
    return time.perf_counter() - start


def steady(out: Path, images: int) -> float:
    """Images per second once programs are up: between the first file that a run wrote and the last."""
    times = sorted(path.stat().st_mtime for path in (out / "partitions").glob("*.csv"))
    return images * (len(times) - 1) / len(times) / (times[-1] - times[0])


def kill_a_worker(parent: int, folder: Path) -> None:
    """Wait for the first partition, then kill a worker."""
    while psutil.pid_exists(parent):
        if any(folder.glob("*.csv")):
            children = psutil.Process(parent).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            workers[0].kill()
            print(f"Killed worker {workers[0].pid} of {len(workers)}.")
            return
        time.sleep(0.05)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=64, help="of the images and of the network input")
    parser.add_argument("--partition", type=int, default=500)
    parser.add_argument("--backbone", default="gabor")
    parser.add_argument("--kill", action="store_true", help="kill a worker in the middle")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    console = Console(width=120)
    console.print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_images(root, given.images, given.side)
        model = trained(root, given.backbone, given.side)
        took, images = alone(root, model)
        seconds, rates = {"one process": took}, {"one process": given.images / images}
        expected = (root / "alone/predictions.csv").read_bytes()
        for workers in given.workers:
            out = f"workers{workers}"
            options = ("--model", model, "--scheduler", f"local:{workers}", "--partition", str(given.partition))
            name = f"workers: {workers}"
            seconds[name] = inspect(root, out, *options, kill=given.kill and workers == 2)
            rates[name] = steady(root / out, given.images)
            same = (root / out / "predictions.csv").read_bytes() == expected
            console.print(f"{workers} workers: the table is {'that' if same else 'NOT that'} of one process")
    table = Table(title=f"{given.images} images of {given.side} pixels a side, {size / 1e6:.0f} MB, {given.backbone}")
    for column in ("", "s in all", "images per s once started", "ms per image", "s per GB"):
        table.add_column(column, justify="right" if column else "left")
    for name, took in seconds.items():
        rate = rates[name]
        table.add_row(
            name, f"{took:.0f}", f"{rate:.0f}", f"{1000 / rate:.1f}", f"{given.images / rate / (size / 1e9):.0f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
