r"""What the token cache saves: encoder passes, seconds per epoch, memory, and the time of a complete training.

    python examples/benchmarks/training.py --root datasets/real_small --target magnetic_tile \
        --source pcb_group_92000 pcb_group_00041 pavement_crack --backbone local-dir:weights/mobilenetv2_100_tfsame
    python examples/benchmarks/training.py ... --backbone vit_small_patch14_dinov2 --image-size 448 --random-weights
    python examples/benchmarks/training.py ... --device cuda --complete

Each row is a process of its own, one after the other. Epochs of ``--timed`` episodes are timed and scaled
to 500, since every step costs the same; ``--complete`` adds a training of 20 epochs of 500 episodes, not scaled.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from anomalib_nagl import Nagl, ReferenceDataModule

EPISODES, EPOCHS = 500, 20
MODES = {"cached": True, "uncached": False}


class Clock(Callback):
    """Seconds of every training epoch, without validation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Stop."""
        self.epochs.append(time.perf_counter() - self._start)


def measure(given: argparse.Namespace, mode: str, episodes: int, epochs: int) -> dict[str, Any]:
    """Train, and count; one process."""
    logging.disable(logging.WARNING)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        weights = machine.random_weights(given.backbone, Path(folder)) if given.random_weights else None
        model = Nagl(
            given.backbone, backbone_weights=weights, image_size=given.image_size, token_cache=MODES[mode],
            epochs=epochs, selection="last", visualizer=False,
        )  # fmt: skip
        passes: list[int] = []
        model.model.encoder.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
        root, common = given.root, {"num_workers": 0}
        data = ReferenceDataModule(
            MVTecAD(root, given.target, **common), MVTecAD(root, given.source[0], **common),
            source_categories=given.source, episodes=episodes, num_workers=given.workers,
        )  # fmt: skip
        clock, start = Clock(), time.perf_counter()
        engine = Engine(
            default_root_dir=folder, callbacks=[clock], accelerator=given.device, devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False,
            limit_val_batches=1.0 if epochs == EPOCHS else 1,  # thresholds only belong to a complete training
        )  # fmt: skip
        trained: list[int] = []
        model.on_train_end = lambda: trained.append(sum(passes))  # type: ignore[method-assign]
        engine.fit(model, datamodule=data)
        total = time.perf_counter() - start
    return {
        "passes": trained[0],
        "epoch": float(np.median(clock.epochs)) / episodes * EPISODES,
        "epochs": clock.epochs,
        "total": total,
        "memory": machine.peak_memory(),
        "distinct": len(set(data.episode_datasets()[0].images())),
    }


def in_process(mode: str, episodes: int, epochs: int) -> dict[str, Any]:
    """Run ``measure`` in a process of its own, so that its memory is its own."""
    command = [sys.executable, *sys.argv, "--worker", mode, str(episodes), str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{mode} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure every mode and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="datasets/real_small", help="folder of categories in MVTec layout")
    parser.add_argument("--target", default="magnetic_tile")
    parser.add_argument("--source", nargs="+", default=["pcb_group_92000", "pcb_group_00041", "pavement_crack"])
    parser.add_argument("--backbone", default="local-dir:weights/mobilenetv2_100_tfsame")
    parser.add_argument("--random-weights", action="store_true", help="for times only")
    parser.add_argument("--image-size", type=int, default=384)
    parser.add_argument("--timed", type=int, default=40, help="episodes of a timed epoch")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what to time beside that")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        mode, episodes, epochs = given.worker
        print(json.dumps(measure(given, mode, int(episodes), int(epochs))))
        return
    console = Console(width=120)
    console.print(machine.describe())
    machine.on_device(given.device)
    table = Table(title=f"{given.backbone.split('/')[-1]} at {given.image_size} px, sources {', '.join(given.source)}")
    for column in ("", "images encoded in training", "s per epoch of 500", "s in all", "peak memory, MB"):
        table.add_column(column, justify="left" if not column else "right")
    found = {mode: in_process(mode, given.timed, 2) for mode in given.modes}
    for mode, row in found.items():
        title = f"{mode}, 2 epochs of {given.timed}"
        table.add_row(title, str(row["passes"]), f"{row['epoch']:.1f}", f"{row['total']:.0f}", f"{row['memory']:.0f}")
    if given.complete:
        row = in_process("cached", EPISODES, EPOCHS)
        title = f"cached, complete: {EPOCHS} epochs of {EPISODES}"
        table.add_row(title, str(row["passes"]), f"{row['epoch']:.1f}", f"{row['total']:.0f}", f"{row['memory']:.0f}")
    console.print(table)
    if len(found) == len(MODES):
        ratio = found["cached"]["epoch"] / found["uncached"]["epoch"]
        console.print(f"{found['cached']['distinct']} images in the source; cached / uncached epoch: 1/{1 / ratio:.1f}")


if __name__ == "__main__":
    main()
