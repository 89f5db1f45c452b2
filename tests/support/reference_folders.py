"""Reference folders as a person would make them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

GABOR = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 128, "--model.visualizer", "false")
FOLDER = ("--data", "ReferenceDataModule", "--data.references", "references")


def copy_references(drawn: Path, folder: Path) -> None:
    plug = drawn / "plug"
    for place in ("normal", "abnormal/spot", "abnormal/missing", "masks/spot"):
        (folder / "references" / place).mkdir(parents=True)
    for number in (0, 1):
        shutil.copy(plug / f"train/good/{number:03}.png", folder / "references/normal")
    shutil.copy(plug / "test/spot/000.png", folder / "references/abnormal/spot/a.png")
    shutil.copy(plug / "ground_truth/spot/000_mask.png", folder / "references/masks/spot/a.png")
    shutil.copy(plug / "test/missing/000.png", folder / "references/abnormal/missing/b.png")
    shutil.copy(plug / "ground_truth/missing/000_mask.png", folder / "references/abnormal/missing/b_mask.png")
    (folder / "new").mkdir()
    for kind in ("good", "spot"):
        shutil.copy(plug / f"test/{kind}/001.png", folder / f"new/{kind}.png")


def save(path: str, array: np.ndarray, **options: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
