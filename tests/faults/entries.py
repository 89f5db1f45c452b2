"""Entry points: what a case gives its input to, and what counts as the answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_nagl import NaglEdge
from anomalib_nagl.bank.adapted import assemble
from anomalib_nagl.bank.bank_file import BankFile
from faults.case import World, command
from faults.world import FACTS


@lru_cache(maxsize=1)
def detector(model: Path) -> NaglEdge:
    """The detector of the shared export, for cases that change nothing."""
    return NaglEdge(model)


def predict(world: World, image: Any) -> float:
    found = detector(world.model).predict(image)
    assert np.isfinite(found.score)
    assert np.isfinite(found.map).all()
    return found.score


def teach_normal(world: World, image: Any) -> int:
    own = NaglEdge(world.copy(world.model))
    own.add_normal(image, name="given")
    return len(NaglEdge(own.bank.with_name("model.xml")).references)


def teach_mask(world: World, mask: Any) -> float:
    own = NaglEdge(world.copy(world.model))
    own.add_abnormal(np.zeros((9, 9, 3), np.uint8), mask, name="given")
    return own.predict(np.zeros((9, 9, 3), np.uint8)).score


def torch_mask(world: World, mask: np.ndarray[Any, Any]) -> int:
    """References that torch is given with a mask."""
    del world
    import torch

    from anomalib_nagl import ReferenceSet

    image = torch.zeros(3, 9, 9)
    return len(ReferenceSet(normal=(image,), abnormal=(image,), masks=(torch.from_numpy(mask),)).abnormal)


def teach_named(world: World, words: Mapping[str, Any]) -> tuple[str, ...]:
    """Names as a detector gives them back after a start anew."""
    own = NaglEdge(world.copy(world.model))
    image, mask = np.zeros((9, 9, 3), np.uint8), np.ones((9, 9))
    own.add_abnormal(image, mask, **{"name": "given", **words})
    found = NaglEdge(own.bank.with_name("model.xml")).references[-1]
    assert {"name": found.name, "defect_type": found.defect_type}.items() >= words.items()
    return found.name, found.defect_type


def set_thresholds(world: World, values: tuple[Any, Any]) -> tuple[float, float]:
    own = NaglEdge(world.copy(world.model))
    own.set_thresholds(*values)
    assert np.isfinite(own.thresholds).all()
    return own.thresholds.image, own.thresholds.pixel


def open_detector(world: World, model: Path) -> dict[str, Any]:
    """What a detector says of two images, and what it knows."""
    del world
    found = NaglEdge(model)
    one, other = (found.predict(np.full((20, 30, 3), grey, np.uint8)) for grey in (0, 200))
    known = [(reference.kind, reference.name, reference.defect_type) for reference in found.references]
    assert np.isfinite([one.score, other.score]).all()
    return {"scores": [one.score, other.score], "labels": [one.label, other.label], "known": known}


def shared_answer(world: World) -> dict[str, Any]:
    """The same of the shared export as it is."""
    return _answer_of(world.model)


@lru_cache(maxsize=1)
def _answer_of(model: Path) -> dict[str, Any]:
    return open_detector(None, model)  # type: ignore[arg-type]


def open_bank(world: World, path: Path) -> dict[str, Any]:
    """All that a query depends on in the bank of few numbers."""
    del world
    bank = BankFile(path, FACTS)
    found = bank.snapshot()
    with bank.read_at_once():
        arrays = {name: np.asarray(array) for name, array in assemble(found.patches).items()}
    assert all(np.isfinite(array).all() for array in arrays.values())
    known = [(one.kind, one.name, one.defect_type, one.active, one.localized) for one in found.references]
    assert found.proxies is None or (found.proxies == 1).all()  # as they were written; others are mined anew
    return {**arrays, "thresholds": found.thresholds, "known": known}


@lru_cache(maxsize=1)
def _bank_of(path: Path) -> dict[str, Any]:
    return open_bank(None, path)  # type: ignore[arg-type]


def shared_bank(world: World) -> dict[str, Any]:
    """The same of the shared bank as it is."""
    return _bank_of(world.bank)


def scan_folder(world: World, folder: Path) -> int:
    """References of a folder as torch takes them."""
    del world
    from anomalib_nagl import ReferenceSet

    found = ReferenceSet.from_folder(folder)
    return len(found.normal) + len(found.abnormal)


def check_folder(world: World, folder: Path) -> str:
    return command("references", "check", folder, "--sheet", world.room / "sheet.png")


def predict_command(world: World, images: Path) -> str:
    return command("edge", "predict", world.model, images, "--out", world.room / "out")


def read_record(world: World, path: Path) -> int:
    """References of a ``references.json``."""
    del world
    from anomalib_nagl.references.record import read_record as read

    found = read(path).files
    return len(found.normal) + len(found.abnormal)


def load_head(world: World, path: Path) -> float:
    """A model with a given head, and that all of its weights are numbers."""
    del world
    import torch

    from anomalib_nagl import Nagl

    model = Nagl(backbone="gabor", image_size=(64, 64), variant="extended", head=path)
    weights = model.model.head.state_dict().values()
    assert all(bool(torch.isfinite(one).all()) for one in weights)
    return float(sum(float(one.double().sum()) for one in weights))


def load_checkpoint(world: World, path: Path) -> list[str]:
    """A checkpoint as ``anomalib predict`` reads it."""
    del world
    import torch

    from anomalib_nagl import Nagl
    from anomalib_nagl.plugin.checkpoint_io import NaglCheckpointIO

    NaglCheckpointIO(extra_safe_globals=Nagl.checkpoint_safe_globals()).load_checkpoint(path)
    model = Nagl.load_from_checkpoint(path)
    assert all(bool(torch.isfinite(one).all()) for one in model.model.head.state_dict().values())
    return [record["name"] for record in model.references]
