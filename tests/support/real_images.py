"""The real images and weights that lie beside the repository, where the configurations look for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.places import SHARED

IMAGES, WEIGHTS = "data/real_small", "weights/mobilenetv2_100_tfsame"
PER_TYPE, TRAINING = 6, 20  # a third of all: enough of every defect type, and each command reads all of them


def thinned(folder: Path) -> None:
    """Copy the first images of each type, with their masks."""
    for source in sorted((SHARED / IMAGES).glob("*/*/*/")):
        count = TRAINING if source.parent.name == "train" else PER_TYPE
        place = folder / source.relative_to(SHARED / IMAGES)
        place.mkdir(parents=True)
        for path in sorted(source.iterdir())[:count]:
            shutil.copy(path, place)


def lay_out(folder: Path, images: Path) -> None:
    """Put links to images and weights into a working folder."""
    for place, target in (("datasets/real_small", images), (WEIGHTS, SHARED / WEIGHTS)):
        (folder / place).parent.mkdir()
        (folder / place).symlink_to(target, target_is_directory=True)


def skip_without() -> None:
    """Skip, saying what is missing, where there are no real images or weights."""
    for source in (IMAGES, WEIGHTS):
        if not (SHARED / source).is_dir():
            pytest.skip(f"{SHARED / source} not found: set NAGL_SHARED to the folder that holds {source}")
