"""A file for every image: names that occur in several folders do not replace each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from PIL import Image
from support.exported import picture, pixels, reference_set

from anomalib_nagl import Nagl
from anomalib_nagl.plugin.visualizer import ReferenceVisualizer


@pytest.fixture
def places(tmp_path: Path) -> Any:
    visualizer = ReferenceVisualizer()
    return SimpleNamespace(
        of=lambda image: visualizer._place(image, tmp_path, None, None).relative_to(tmp_path).as_posix(),
        again=lambda: visualizer.on_predict_start(None, None),
    )


def test_where_pictures_go(places: Any) -> None:
    """As anomalib names them, with more folders where that is taken; an image that is seen again replaces its own."""
    given = ["/in/mon/cam1/1.png", "/in/mon/cam2/1.png", "/in/tue/cam1/1.png", "/old/tue/cam1/1.png", "tue/cam1/1.png"]
    first = [places.of(image) for image in given]
    assert first[:4] == ["cam1/1.png", "cam2/1.png", "tue/cam1/1.png", "old/tue/cam1/1.png"]
    assert len(set(first)) == 5
    assert places.of(given[2]) == "tue/cam1/1.png"
    places.again()
    assert places.of(given[2]) == "cam1/1.png"


def test_folders_above_do_not_lead_out(places: Any, tmp_path: Path) -> None:
    found = [places.of(f"{start}/a/1.png") for start in ("../x", "../../x", "../../y")]
    assert len(set(found)) == 3
    assert not any(".." in name for name in found)


def test_images_without_a_file_are_numbered(places: Any) -> None:
    assert len({places.of("") for _ in range(3)}) == 3


def test_a_prediction_of_dated_folders(tmp_path: Path) -> None:
    for i, place in enumerate(("mon/cam1", "mon/cam2", "tue/cam1", "tue/cam2")):
        (tmp_path / "new" / place).mkdir(parents=True)
        Image.fromarray(pixels(picture((80, 90), i))).save(tmp_path / "new" / place / "0001.png")
    model = Nagl("gabor", image_size=96, variant="extended-proxies").eval()
    model.set_references(reference_set(1, 1))
    engine = Engine(default_root_dir=tmp_path / "out", accelerator="cpu", devices=1, logger=False)
    engine.predict(model, dataset=PredictDataset(tmp_path / "new"))
    assert len(list((tmp_path / "out").rglob("0001.png"))) == 4
