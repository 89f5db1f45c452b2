"""Source categories made of others: turned as a whole, or with synthetic defects on their normal images.

They are folders in MVTec's layout, so that a training takes them as it takes any source. An episode is drawn from each
category alike, so each of these makes as many episodes as the one it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.utils import LabelName
from filelock import FileLock
from PIL import Image
from torch import Tensor

import anomalib_nagl.plugin.perlin  # noqa: F401  # one of the methods
from anomalib_nagl.evaluation.names import EXTRA_SOURCES, TURNS
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.references.images import load_image, load_mask
from anomalib_nagl.references.sample import GOOD, Sample
from anomalib_nagl.references.synthetic import METHODS, SYNTHETIC

DONE = ".complete"


def extra_source(source: AnomalibDataModule, category: str, kind: str, folder: Path) -> AnomalibDataModule:
    """The category that ``kind`` makes of a set-up source, written to ``folder`` unless it is there; set up.

    ``turn90`` to ``turn270`` turn every image with its mask; ``cut_paste`` and ``perlin`` damage each normal training
    image once, and good images stay. ValueError for another kind.
    """
    if kind not in EXTRA_SOURCES:
        raise ValueError(f"found extra source {kind!r}, expected one of {', '.join(EXTRA_SOURCES)}")
    name = f"{category}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if not (folder / name / DONE).exists():
            _write(source, folder / name, kind)
            (folder / name / DONE).touch()
    made = MVTecAD(root=folder, category=name)
    made.seed = 0
    made.setup()
    return made


def _write(source: AnomalibDataModule, folder: Path, kind: str) -> None:
    train, good = (samples(data, LabelName.NORMAL) for data in (source.train_data, source.test_data))
    if kind in TURNS:

        def turned(image: Tensor) -> Tensor:
            return torch.rot90(image, TURNS[kind], (-2, -1))

        _save(folder / "train" / GOOD, train, turned)
        _save(folder / "test" / GOOD, good, turned)
        for number, sample in enumerate(samples(source.test_data, LabelName.ABNORMAL)):
            image, mask = load_image(sample.image), load_mask(sample.masks, sample.image)
            _save_defect(folder, sample.defect_type, number, turned(image), turned(mask))
        return
    _save(folder / "train" / GOOD, train)
    _save(folder / "test" / GOOD, good)
    for number, sample in enumerate(train):
        _save_defect(folder, SYNTHETIC, number, *METHODS[kind]([load_image(sample.image)], 0, (0, number)))


def _save(folder: Path, listed: Iterable[Sample], change: Callable[[Tensor], Tensor] = lambda image: image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(listed):
        _picture(change(load_image(sample.image))).save(folder / f"{number:04d}.png")


def _save_defect(folder: Path, defect_type: str, number: int, image: Tensor, mask: Tensor) -> None:
    pictures, masks = folder / "test" / defect_type, folder / "ground_truth" / defect_type
    pictures.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    _picture(image).save(pictures / f"{number:04d}.png")
    marked = np.ascontiguousarray((mask != 0).numpy().astype(np.uint8) * 255)
    Image.fromarray(marked).save(masks / f"{number:04d}_mask.png")


def _picture(image: Tensor) -> Image.Image:
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
