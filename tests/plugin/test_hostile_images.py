"""Images that would start a program through Pillow, in every way in which torch's side meets them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, ImageItem, MVTecAD, PredictDataset
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from PIL import Image
from support.parts import SIDE, category, engine, model, part, target
from torch.utils.data import DataLoader

from anomalib_nagl import Nagl, ReferenceDataModule, ReferenceSet
from anomalib_nagl.plugin.reading import CheckedReader, ImagesToPredict, served
from anomalib_nagl.references.images import load_image

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n%%EOF\n"
REFUSED = r"none of PNG, JPEG"


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a false Ghostscript, the first on the path, writes when it is started."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "gs").write_text(f'#!/bin/sh\necho "$@" >> "{folder}/started"\nexit 1\n')
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for anew
    return folder / "started"


def spoilt(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(POSTSCRIPT)
    return path


class Brighter(MVTecADDataset):
    """Reads files as Pillow does, and changes them."""

    def __getitem__(self, index: int) -> ImageItem:
        item = super().__getitem__(index)
        item.image = item.image / 2
        return item


class BrighterParts(MVTecAD):
    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = Brighter(self.root, self.category, split="train")
        self.test_data = Brighter(self.root, self.category, split="test")


def known(root: Path) -> Nagl:
    nagl = model()
    nagl.set_references(ReferenceSet([load_image(path) for path in sorted((root / "a/train/good").glob("*.png"))]))
    return nagl


def taken(references: Path, queries: AnomalibDataModule) -> ReferenceSet:
    data = ReferenceDataModule(references=references, target=queries)
    data.setup()
    return data.reference_set()


@pytest.mark.parametrize("place", ["normal/0.png", "abnormal/dent/0.png", "masks/dent/1.png"])
def test_in_a_folder_of_references(place: str, started: Path, tmp_path: Path) -> None:
    image, mask = part(1, True)
    for name, pixels in (("normal/1.png", image), ("abnormal/dent/1.png", image), ("masks/dent/1.png", mask)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    spoilt(tmp_path / place)
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        ReferenceSet.from_folder(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        taken(tmp_path, target(category(tmp_path, "a").parent))
    assert not started.exists()


def test_as_a_query(started: Path, tmp_path: Path) -> None:
    category(tmp_path, "a")
    with pytest.raises(ValueError, match=REFUSED):
        known(tmp_path).predict(spoilt(tmp_path / "b.png"))
    assert not started.exists()


@pytest.mark.parametrize("kind", [MVTecAD, BrighterParts])
@pytest.mark.parametrize("place", ["test/dent/0.png", "ground_truth/dent/0_mask.png"])
def test_in_a_datamodule_of_anomalib(kind: type[AnomalibDataModule], place: str, started: Path, tmp_path: Path) -> None:
    """Read by our readers or, after a look at the file, by that of the dataset."""
    category(tmp_path, "a")
    spoilt(tmp_path / "a" / place)
    data = kind(tmp_path, "a", num_workers=0, train_batch_size=2, eval_batch_size=2)
    with pytest.raises(ValueError, match=r"cannot be read as an image.*a/" + place):
        engine(tmp_path).test(known(tmp_path), datamodule=data)
    assert not started.exists()


@pytest.mark.parametrize(
    "given",
    [
        lambda folder: {"data_path": folder},
        lambda folder: {"dataset": PredictDataset(folder)},
        lambda folder: {
            "dataloaders": [DataLoader(data := PredictDataset(folder), collate_fn=data.collate_fn, num_workers=1)]
        },
    ],
)
def test_in_a_folder_to_predict(given: Callable[[Path], dict[str, object]], started: Path, tmp_path: Path) -> None:
    category(tmp_path, "a")
    spoilt(tmp_path / "queries/b.png")
    with pytest.raises(ValueError, match=REFUSED):
        engine(tmp_path).predict(known(tmp_path), **given(tmp_path / "queries"))
    assert not started.exists()


def test_a_folder_to_predict_is_read_as_references_are(tmp_path: Path) -> None:
    category(tmp_path, "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "queries").mkdir()
    Image.fromarray(part(1)[0][: SIDE // 2]).save(path := tmp_path / "queries/turned.png", exif=exif)
    data = PredictDataset(tmp_path / "queries")
    (batch,) = engine(tmp_path).predict(nagl := known(tmp_path), dataset=data)
    assert type(data) is ImagesToPredict
    assert torch.equal(data[0].image, load_image(path))
    assert float(batch.pred_score) == pytest.approx(nagl.predict(path).score, abs=1e-5)


def test_a_reader_of_its_own_stays_what_it_was(tmp_path: Path) -> None:
    category(tmp_path, "a")
    own = Brighter(tmp_path, "a", split="test")
    checked = served(own)
    assert isinstance(checked, CheckedReader)
    assert isinstance(checked, Brighter)
    for copied in (checked, served(checked), pickle.loads(pickle.dumps(checked))):
        assert type(copied) is type(checked)
        assert torch.equal(copied[0].image, own[0].image)
    checked._samples = checked.samples.iloc[:1]
    assert len(own) > 1
    np.save(tmp_path / "depth.npy", np.zeros(3))
    own._samples = own.samples.assign(image_path=str(tmp_path / "depth.npy"))
    with pytest.raises(OSError, match="cannot identify image file"):  # its own word on what is no image by name
        served(own)[0]
