"""What encoding an image costs with different backbones, in torch and exported to OpenVINO.

    python examples/benchmarks/encoders.py builtin gabor local-dir:FOLDER   # such as a MobileNetV2

All take turns in one process, so that a busy machine disturbs them alike; times are medians, and ratios, to the last
backbone, medians of ratios within a turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import machine
import numpy as np
import openvino
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anomalib_nagl.encoders import Encoder, build_encoder


class Measured(NamedTuple):
    """A backbone with its weights, and what encodes an image in torch and in OpenVINO."""

    encoder: Encoder
    calls: tuple[Callable[[Tensor], object], Callable[[Tensor], object]]


def prepare(backbone: str, size: int, threads: int) -> Measured:
    """Load and convert a backbone."""
    encoder = build_encoder(backbone, size)
    encoder.ensure_weights()
    model = openvino.convert_model(encoder, example_input=torch.zeros(1, 3, size, size), input=[1, 3, size, size])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(model, "CPU", settings)
    return Measured(encoder, (encoder, lambda image: compiled(image.numpy())))


@torch.inference_mode()
def take_turns(measured: list[Measured], size: int, turns: int) -> np.ndarray:
    """Seconds (turns, backbones, torch and OpenVINO), the first turns left out."""
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    seconds = np.zeros((turns + 3, len(measured), 2))
    for turn in seconds:
        for row, (_, calls) in zip(turn, measured, strict=True):
            for column, call in enumerate(calls):
                begun = time.perf_counter()
                call(image)
                row[column] = time.perf_counter() - begun
    return seconds[3:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="+", help="as of Nagl; ratios are to the last one")
    parser.add_argument("--size", type=int, default=384, help="side of the image in pixels")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = [prepare(backbone, options.size, options.threads) for backbone in options.backbones]
    seconds = take_turns(measured, options.size, options.turns)
    times, ratios = np.median(seconds, axis=0), np.median(seconds / seconds[:, -1:], axis=0)
    table = Table("backbone", "parameters", "torch, ms", "ratio", "OpenVINO, ms", "ratio")
    for name, one, time_of, ratio in zip(options.backbones, measured, 1e3 * times, ratios, strict=True):
        parameters = sum(parameter.numel() for parameter in one.encoder.parameters())
        cells = [f"{time_of[0]:.1f}", f"{ratio[0]:.2f}", f"{time_of[1]:.1f}", f"{ratio[1]:.2f}"]
        table.add_row(name, f"{parameters:,}", *cells)
    console = Console()
    console.print(machine.describe(), highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
