"""What the cases share, made once: a small export, a bank of few numbers, a folder of references, a head."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalib_nagl.bank.bank_file import THRESHOLDS, BankFile
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.io.given import keep
from faults.case import World

GRID, WIDTH = (4, 5), 6
FACTS = {
    "backbone": "none", "head": "none", "grid": list(GRID), "image_size": [40, 50], "dim": WIDTH, "num_proxies": 3,
    "context": True, "shifted_grid": False, "proxies": True, "shared_mining": True, "bank_limit": 30,
}  # fmt: skip
SIZE = (48, 60)


def build(folder: Path) -> None:
    """Make all of it below an empty folder."""
    import torch
    from support.exported import make_model, reference_set

    model = make_model("gabor", (64, 64), "extended")
    model.set_references(reference_set(2, 1, SIZE))
    exported = model.to_openvino(folder / "made")
    shutil.copytree(Path(exported).parent, folder / "export")
    torch.save(model.model.head.state_dict(), folder / "head.pt")
    _write_checkpoint(model, folder / "model.ckpt")
    _write_bank(folder / "part.bank")
    _write_references(folder / "references")


def world(folder: Path, room: Path) -> World:
    """What ``build`` made, with an empty folder for a case."""
    (model,) = (folder / "export").glob("model.xml")
    files = (folder / name for name in ("part.bank", "references", "model.ckpt", "head.pt"))
    return World(model, *files, room=room)


def in_room(world: World, room: Path) -> World:
    """The same world for the next case: its room is emptied."""
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    return replace(world, room=room)


def _write_bank(path: Path) -> None:
    generator = np.random.default_rng(0)
    lessons = []
    for kind, name in (("normal", "part"), ("abnormal", "dent")):
        marked = np.zeros(20, np.float32)
        marked[3:5] = kind == "abnormal"
        tokens = generator.standard_normal((20, WIDTH)).astype(np.float32)
        image = keep(np.zeros((4, 5, 3), np.uint8), None if kind == "normal" else np.ones((4, 5)))
        about = Reference(kind, name, "dent" if kind == "abnormal" else "good", localized=kind == "abnormal")
        lessons.append(Lesson.of(about, tokens, marked, GRID, image))
    BankFile.create(path, FACTS, {THRESHOLDS: [0.5, None]}, lessons, np.ones((3, WIDTH), np.float32))


def _write_references(folder: Path) -> None:
    from PIL import Image
    from support.exported import defect_mask, picture, pixels

    for place in ("normal", "abnormal/dent", "masks/dent"):
        (folder / place).mkdir(parents=True)
    for i in range(2):
        Image.fromarray(pixels(picture(SIZE, 10 + i))).save(folder / f"normal/{i}.png")
    Image.fromarray(pixels(picture(SIZE, 20, defect=True))).save(folder / "abnormal/dent/0.png")
    mask = (defect_mask(SIZE, 20).numpy() * 255).astype(np.uint8)
    Image.fromarray(mask).save(folder / "masks/dent/0.png")


def _write_checkpoint(model: object, path: Path) -> None:
    from support.small_part import quiet_engine

    trainer = quiet_engine(path.parent / "engine")
    trainer._cache.update(model)  # as an engine does before it starts
    trainer._setup_trainer(model)
    trainer.trainer.strategy.connect(model)
    trainer.trainer.save_checkpoint(path)
