"""A score that is no number is an error on torch's side too, never a label."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.parts import category, engine, model, target

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.references.images import load_image
from anomalib_nagl.references.reference_set import ReferenceImage


@pytest.fixture
def broken(tmp_path: Path) -> Nagl:
    """A model whose references became NaN, as those of a spoilt checkpoint."""
    category(tmp_path, "a")
    nagl = model()
    nagl.set_references(ReferenceSet([load_image(path) for path in sorted((tmp_path / "a/train/good").glob("*.png"))]))
    for name, buffer in nagl.model.named_buffers():
        if name.endswith("normal_bank"):
            buffer.fill_(torch.nan)
    return nagl


def test_of_one_image(broken: Nagl, tmp_path: Path) -> None:
    path = tmp_path / "a/test/good/0.png"
    with pytest.raises(ValueError, match=r"found a score that is no number for .*0\.png, expected a finite one"):
        broken.predict(path)
    with pytest.raises(ValueError, match="found a score that is no number for the image"):
        broken.predict(load_image(path))


def test_of_an_engine(broken: Nagl, tmp_path: Path) -> None:
    for run in (engine(tmp_path).test, engine(tmp_path).predict):
        with pytest.raises(ValueError, match=r"found a score that is no number for .*\.png, expected a finite one"):
            run(broken, datamodule=target(tmp_path))


def test_masks_of_no_numbers() -> None:
    mask = torch.zeros(8, 9)
    mask[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"no numbers \(NaN, infinity\) for 'part'"):
        ReferenceImage(torch.zeros(3, 8, 9), "abnormal", mask, "part")
