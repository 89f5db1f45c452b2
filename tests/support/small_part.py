"""A part of a few small images in MVTec's layout, a model that has seen it, and its checkpoint as a GPU writes it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD
from anomalib.engine import Engine
from PIL import Image

from anomalib_nagl import Nagl
from support.exported import picture, pixels

SPLITS = (("train/good", 4), ("test/good", 3), ("test/square", 3), ("ground_truth/square", 3))


def write_part(root: Path, side: int = 96, name: str = "part", first: int = 50) -> Path:
    """Write the images below ``root``, drawn with seeds from ``first`` on; returns ``root``."""
    for kind, count in SPLITS:
        (root / name / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            suffix = "_mask" if kind.startswith("ground") else ""
            drawn = pixels(picture((side, side), first + i, "square" in kind))
            Image.fromarray(drawn[..., 0] if suffix else drawn).save(root / name / kind / f"{i:03}{suffix}.png")
    return root


def part_data(root: Path, name: str = "part") -> MVTecAD:
    """The datamodule of it."""
    return MVTecAD(root=root, category=name, num_workers=0, train_batch_size=2, eval_batch_size=2)


def small_model(**settings: Any) -> Nagl:
    """The smallest model there is: no weights, and no head to train."""
    return Nagl(**{"backbone": "gabor", "image_size": 96, "variant": "extended-proxies", **settings})


def quiet_engine(folder: Path, **settings: Any) -> Engine:
    """An engine on the CPU that writes below a folder and prints little."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **{**quiet, **settings})


def as_written_on_gpu(checkpoint: Path, copy: Path) -> Path:
    """A copy of a checkpoint whose tensors say that they were on the eighth GPU, which no test machine has."""
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:7"  # a location, as pickle writes a short text
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert cpu in content
                content = content.replace(cpu, gpu)
            new.writestr(entry.filename, content)
    return copy
