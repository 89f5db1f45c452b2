"""Commands that get Ctrl-C or SIGTERM while they work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.places import CONFIGS
from support.signals import hear_interrupts

from faults.case import ANSWER, Case, World

SECONDS = 90  # to come to its first file, and to end
PART = "{{class_path: MVTecAD, init_args: {{root: data, category: {0}, num_workers: 0}}}}"
TRAINING = f"""
model: {{class_path: Nagl, init_args: {{backbone: gabor, image_size: 64, epochs: 100000, visualizer: false}}}}
data:
  class_path: ReferenceDataModule
  init_args: {{target: {PART.format("part")}, source: [{PART.format("other")}], episodes: 8, num_workers: 0}}
"""


def _started(world: World, arguments: tuple[object, ...], first: str, sign: int) -> Path:
    """Start a command, wait for the first file it writes, and send it a signal; its status and words in a file."""
    words = world.room / "said"
    command = [sys.executable, "-W", "ignore", "-m", "anomalib_nagl.cli", *map(str, arguments)]
    with words.open("w") as file:
        running = subprocess.Popen(
            command, cwd=world.room, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"},
            preexec_fn=hear_interrupts,
        )  # fmt: skip
        until = time.monotonic() + SECONDS
        while not any(world.room.rglob(first)) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        running.send_signal(sign)
        try:
            status = running.wait(SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            status = running.wait()
    words.write_text(f"{status}\n{words.read_text()}")
    return words


def _predicting(sign: int) -> Callable[[World], Path]:
    """``edge predict`` of many images."""

    def make(world: World) -> Path:
        (world.room / "many").mkdir()
        for i in range(300):
            os.link(world.references / "normal/0.png", world.room / f"many/{i}.png")
        return _started(world, ("edge", "predict", world.model, "many", "--out", "out"), "out/*.png", sign)

    return make


def _predicting_with_torch(sign: int) -> Callable[[World], Path]:
    """``predict`` of many images."""

    def make(world: World) -> Path:
        (world.room / "many").mkdir()
        for i in range(2000):
            os.link(world.references / "normal/0.png", world.room / f"many/{i}.png")
        model = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", "64")
        arguments = ("predict", *model, "--ckpt_path", world.checkpoint, "--data", "many")
        return _started(world, arguments, "results/**/images/**/*.png", sign)

    return make


def _evaluating(sign: int) -> Callable[[World], Path]:
    """``evaluate`` of many cells."""

    def make(world: World) -> Path:
        from anomalib_nagl.rendered.render import render_category

        render_category(world.room / "drawn", "plate", 0)
        settings = {
            "config": CONFIGS / "evaluate/quickstart.yaml", "domains": "{textures: [cloth], parts: [plate]}",
            "data": "drawn", "targets": "[plate]", "models": "[normal_only]", "shots": "[1+1]", "protocols": "[fixed]",
            "reference_seeds": 500, "image_size": 64, "metric_size": 32, "costs": "false", "out": "out",
        }  # fmt: skip
        arguments = tuple(word for name, value in settings.items() for word in (f"--{name}", value))
        return _started(world, ("evaluate", *arguments), "cells/*.json", sign)

    return make


def _training(sign: int) -> Callable[[World], Path]:
    """``train`` without an end."""

    def make(world: World) -> Path:
        from support.small_part import write_part

        for name, first in (("part", 50), ("other", 150)):
            write_part(world.room / "data", name=name, first=first)
        (world.room / "train.yaml").write_text(TRAINING)
        return _started(world, ("train", "--config", "train.yaml"), "last.ckpt", sign)

    return make


def _ended_well(status: int) -> Callable[[World, Path], str]:
    """A status that tells of the signal, no traceback, the cursor shown again, and no half of a file."""

    def look(world: World, path: Path) -> str:
        from PIL import Image

        found, said = path.read_text().split("\n", 1)
        assert found == str(status), f"status {found}: {said[-300:]!r}"
        assert "Traceback" not in said, said[-300:]
        assert "nterrupt" in said, said[-300:]
        assert said.count("\x1b[?25l") <= said.count("\x1b[?25h"), "the cursor stays hidden"
        for overlay in (world.room / "out").glob("*.png"):
            with Image.open(overlay) as image:
                image.load()
        return said[-200:]

    return look


def _goes_on(status: int) -> Callable[[World, Path], str]:
    """The same, and a line that names the command which goes on from a file that is there."""

    def look(world: World, path: Path) -> str:
        said = _ended_well(status)(world, path)
        line = next(line for line in path.read_text().splitlines() if line.startswith("Interrupted. "))
        assert "anomalib-nagl train --config train.yaml --ckpt_path" in line
        assert Path(line.split()[-1]).is_file()
        return said

    return look


def _goes_on_alike(status: int) -> Callable[[World, Path], str]:
    """The same, and word that the same command goes on; cells that are there are whole."""

    def look(world: World, path: Path) -> str:
        from anomalib_nagl.evaluation.results import read_results

        said = _ended_well(status)(world, path)
        assert "The same command goes on" in path.read_text()
        assert len(read_results(world.room / "out", {}))
        return said

    return look


def cases() -> Iterator[Case]:
    if sys.platform == "win32":
        return
    for name, sign, status in (("Ctrl-C", signal.SIGINT, 130), ("SIGTERM", signal.SIGTERM, 143)):
        for what, make, look in (
            ("edge predict", _predicting, _ended_well),
            ("predict", _predicting_with_torch, _ended_well),
            ("evaluate", _evaluating, _goes_on_alike),
            ("train", _training, _goes_on),
        ):
            yield Case("interrupts", f"{name} in {what}", make(sign), look(status), ANSWER, quick=False)
