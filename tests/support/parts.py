"""Small parts with defects, in the layout of MVTec AD: drawn in milliseconds, unlike each other by category."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from numpy.typing import NDArray
from PIL import Image

from anomalib_nagl import Nagl

SIDE = 64


def part(seed: int, defect: bool = False, tint: float = 1.0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (H, W, 3) and mask (H, W), 255 on the defect."""
    chance = np.random.default_rng(seed)
    stripes = np.tile(np.sin(np.arange(SIDE)), (SIDE, 1))
    grey = 150 + 40 * stripes + chance.normal(0, 5, (SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), bool)
    if defect:
        top, left = chance.integers(8, SIDE - 20, 2)
        mask[top : top + 12, left : left + 12] = True
        grey[mask] = 30 + chance.normal(0, 20, mask.sum())
    image = np.stack([grey, grey * tint, grey], -1).clip(0, 255).astype(np.uint8)
    return image, (mask * 255).astype(np.uint8)


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Save an image, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def category(root: Path, name: str, train: int = 5, good: int = 3, each: int = 4) -> Path:
    """Draw a category with defects of two types; returns its folder."""
    home, start, tint = root / name, sum(map(ord, name)) * 1000, 0.5 + (sum(map(ord, name)) % 7) / 10
    for number in range(train):
        write(home / f"train/good/{number}.png", part(start + number, tint=tint)[0])
    for number in range(good):
        write(home / f"test/good/{number}.png", part(start + 100 + number, tint=tint)[0])
    for kind in ("dent", "hole"):
        for number in range(each):
            image, mask = part(start + 200 + number + 50 * (kind == "hole"), True, tint)
            write(home / f"test/{kind}/{number}.png", image)
            write(home / f"ground_truth/{kind}/{number}_mask.png", mask)
    return home


def target(root: Path, name: str = "a", **settings: object) -> MVTecAD:
    """anomalib's own datamodule of a drawn category."""
    return MVTecAD(root, name, num_workers=0, **settings)  # type: ignore[arg-type]


def model(**settings: object) -> Nagl:
    """A small model that needs no weights and no head."""
    given = {"backbone": "gabor", "image_size": SIDE, "variant": "extended-proxies", "visualizer": False, **settings}
    return Nagl(**given)  # type: ignore[arg-type]


def learner(**settings: object) -> Nagl:
    """A small model with a head to train."""
    return model(**{"variant": "extended", "num_heads": 2, "epochs": 2, **settings})


def engine(root: Path, **settings: object) -> Engine:
    """An engine that shows nothing."""
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=root, **{**quiet, **settings})
