"""Small drawn images in exactly the folders of public data sets, as they are when unpacked."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NORMAL, GOOD, DEFECTS = 6, 3, 6
SIDE = 40
MVTEC = {"train/good": NORMAL, "test/good": GOOD, "test/scratch": DEFECTS, "test/hole": DEFECTS}


def lay_out(kind: str, root: Path, categories: list[str]) -> Path:
    """Draw categories of a data set below a root: MVTecAD, MPDD, BTech, BMAD or Visa."""
    for number, category in enumerate(categories):
        _LAYOUTS[kind](root, category, number)
    if kind == "Visa":
        _write_split(root, categories)
    return root


def _mvtec(root: Path, category: str, number: int) -> None:
    for folder, count in MVTEC.items():
        for i, image, mask in _images(count, number + (100 if "hole" in folder else 0), "good" not in folder):
            _save(image, root / category / folder / f"{i:03}.png")
            if mask is not None:
                _save(mask, root / category / folder.replace("test", "ground_truth") / f"{i:03}_mask.png")


def _btech(root: Path, category: str, number: int) -> None:
    suffix = "png" if category == "02" else "bmp"
    for folder, count in {"train/ok": NORMAL, "test/ok": GOOD, "test/ko": DEFECTS}.items():
        for i, image, mask in _images(count, number, folder.endswith("ko")):
            _save(image, root / category / folder / f"{i:04}.{suffix}")
            if mask is not None:
                _save(mask, root / category / "ground_truth/ko" / f"{i:04}.png")


def _bmad(root: Path, category: str, number: int) -> None:
    for i, image, _ in _images(NORMAL, number, False):
        _save(image, root / category / "train/good" / f"{i}.png")
    for split in ("test", "valid"):
        for label, count in {"good": GOOD, "Ungood": DEFECTS}.items():
            for i, image, mask in _images(count, number, label == "Ungood"):
                _save(image, root / category / split / label / "img" / f"{i}.png")
                blank = np.zeros((SIDE, SIDE), np.uint8)
                _save(blank if mask is None else mask, root / category / split / label / "label" / f"{i}.png")


def _visa(root: Path, category: str, number: int) -> None:
    data = root / category / "Data"
    for i, image, _ in _images(NORMAL + GOOD, number, False):
        _save(image, data / "Images/Normal" / f"{i:04}.JPG")
    for i, image, mask in _images(DEFECTS, number, True):
        _save(image, data / "Images/Anomaly" / f"{i:03}.JPG")
        _save((mask > 0).astype(np.uint8), data / "Masks/Anomaly" / f"{i:03}.png")  # holds numbers of defects


def _write_split(root: Path, categories: list[str]) -> None:
    (root / "split_csv").mkdir(parents=True)
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["object", "split", "label", "image", "mask"])
        for name in categories:
            for i in range(NORMAL + GOOD):
                split = "train" if i < NORMAL else "test"
                rows.writerow([name, split, "normal", f"{name}/Data/Images/Normal/{i:04}.JPG", ""])
            for i in range(DEFECTS):
                files = (f"{name}/Data/Images/Anomaly/{i:03}.JPG", f"{name}/Data/Masks/Anomaly/{i:03}.png")
                rows.writerow([name, "test", "anomaly", *files])


def _images(count: int, number: int, defective: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Striped pictures, of a width for each category; a bright spot with its mask, or None."""
    for i in range(count):
        generator = np.random.default_rng([number, i, int(defective), count])
        stripes = 120 + 60 * np.sin(np.arange(SIDE) * (number % 5 + 2) / 6)
        image = np.repeat((stripes[None] + generator.normal(0, 8, (SIDE, SIDE)))[..., None], 3, axis=-1)
        mask = None
        if defective:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            top, left = generator.integers(4, SIDE - 16, 2)
            mask[top : top + 10, left : left + 10] = 255
            image[mask > 0] = 250
        yield i, image.clip(0, 255).astype(np.uint8), mask


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


_LAYOUTS = {"MVTecAD": _mvtec, "MPDD": _mvtec, "BTech": _btech, "BMAD": _bmad, "Visa": _visa}
