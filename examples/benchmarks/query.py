"""What a query costs beside its encoder pass, how that grows with references, and what encoding them anew would cost.

    python examples/benchmarks/query.py                      # ViT-S/14 at 448 px, random weights: times only
    python examples/benchmarks/query.py --backbone mobilenetv2_100 --image-size 384
    python examples/benchmarks/query.py --device cuda

References are random images. All variants take turns in one process, so that a busy machine disturbs them alike; the
figures are medians, and ratios are medians of ratios within a turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from anomalib_nagl.core.building import build_model
from anomalib_nagl.core.model import NaglModel

GROWTH = 64  # normal references at the far end


def images(count: int, size: tuple[int, int]) -> Tensor:
    """Random normalised images (count, 3, H, W)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


def adapted(model: NaglModel, normal: int, abnormal: int, limit: int | None = None) -> Callable[[Tensor], object]:
    """A query against so many references, which are encoded here, once."""
    size = model.encoder.image_size
    device = model.smooth_down.device
    masks = torch.zeros(abnormal, *size)
    masks[:, : size[0] // 8, : size[1] // 8] = 1
    tokens = model.encode_references(images(normal, size).to(device), images(abnormal, size).to(device), masks)
    state = model.adapt(tokens, limit)
    return lambda image: model.predictions(model.score(model.encode(image), state).score)


def naive(model: NaglModel, normal: int, abnormal: int) -> Callable[[Tensor], object]:
    """A query that brings its references along, to be encoded with it."""
    size = model.encoder.image_size
    device = model.smooth_down.device
    references = images(normal, size)[None].to(device), images(abnormal, size)[None].to(device)
    masks = torch.zeros(1, abnormal, *size, device=device)
    masks[..., : size[0] // 8, : size[1] // 8] = 1
    return lambda image: model.episode(image, *references, masks)


def take_turns(variants: dict[str, Callable[[Tensor], object]], image: Tensor, turns: int) -> dict[str, np.ndarray]:
    """Milliseconds of every variant in every turn, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for _ in range(turns + 1):
            for name, call in variants.items():
                start = time.perf_counter()
                call(image)
                machine.wait_for(image.device)
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * np.array(found[1:]) for name, found in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--bank-limit", type=int, default=0, help="limit of patches to try as well")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    given = parser.parse_args()
    device = machine.on_device(given.device)
    size = (given.image_size, given.image_size)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights = machine.random_weights(given.backbone, Path(folder))
        model = build_model(given.backbone, None, 25, 4, "extended", size, weights).eval().to(device)
        model.encoder.ensure_weights()
        variants: dict[str, Callable[[Tensor], object]] = {"encoder alone": model.encoder}
        adapting: dict[str, float] = {}
        for normal in (1, 4, 16, GROWTH):
            start = time.perf_counter()
            variants[f"{normal}+1"] = adapted(model, normal, 1)
            machine.wait_for(device)
            adapting[f"{normal}+1"] = time.perf_counter() - start
        reduced, start = f"{GROWTH}+1, limit {given.bank_limit}", time.perf_counter()
        if given.bank_limit:
            variants[reduced] = adapted(model, GROWTH, 1, given.bank_limit)
        took = time.perf_counter() - start
        for normal in (1, 4):
            variants[f"{normal}+1, encoded anew"] = naive(model, normal, 1)
    times = take_turns(variants, (images(1, size) + 1).to(device), given.turns)
    pairs = {
        **{name: "encoder alone" for name in variants if name.endswith("+1")},
        **({reduced: "encoder alone"} if given.bank_limit else {}),
        **{f"{normal}+1, encoded anew": f"{normal}+1" for normal in (1, 4)},
    }
    console = Console(width=120)
    console.print(machine.describe())
    table = Table(title=f"{given.backbone} at {given.image_size} px, one query, median of {given.turns}")
    for column in ("references", "ms", "ratio", "to", "s to encode and adapt to them"):
        table.add_column(column, justify="left" if column in ("references", "to") else "right")
    for name, found in times.items():
        base = pairs.get(name)
        ratio = f"{np.median(found / times[base]):.2f}" if base else ""
        table.add_row(
            name,
            f"{np.median(found):.{0 if device.type == 'cpu' else 2}f}",
            ratio,
            base or "",
            f"{adapting[name]:.1f}" if name in adapting else "",
        )
    console.print(table)
    for name in (f"{GROWTH}+1", reduced):
        if name in times:
            console.print(f"{name} over 1+1: {np.median(times[name] / times['1+1']):.2f}")
    if given.bank_limit:
        console.print(f"Choosing what is kept took {took:.0f} s.")
    console.print(f"Peak memory {machine.peak_memory():.0f} MB.")
    if device.type == "cuda":
        console.print(f"Peak memory of the device {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MB.")


if __name__ == "__main__":
    main()
