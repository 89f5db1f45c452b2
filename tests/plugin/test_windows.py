"""Large images in windows: sizes of references decide the input, and all of a run goes through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_nagl import Nagl
from anomalib_nagl.encoders.windowed import WindowedEncoder
from anomalib_nagl.references.reference_set import ReferenceSet

SIZE = (150, 262)


def picture(seed: int, spot: bool = False) -> torch.Tensor:
    """A texture with or without a bright spot of 12 pixels."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((3, *SIZE), dtype=np.float32)) * 0.2 + 0.3
    if spot:
        image[:, 96:108, 210:222] = 0.95
    return image


def spot_mask() -> torch.Tensor:
    mask = torch.zeros(SIZE)
    mask[96:108, 210:222] = 1
    return mask


def windowed(**settings: object) -> Nagl:
    """A model with windows of 64 pixels and references."""
    model = Nagl(backbone="gabor", variant="discriminant", window=64, overlap=16, **settings).eval()
    model.set_references(ReferenceSet([picture(1), picture(2)], [picture(3, spot=True)], [spot_mask()]))
    return model


def test_the_references_decide_the_size_of_the_input() -> None:
    model = windowed()
    assert model.image_size == (144, 256)
    assert model.model.encoder.grid == (9, 16)
    assert model.model.encoder.window == (64, 64)


def test_a_small_defect_is_found_where_it_is() -> None:
    found = torch.as_tensor(windowed().predict(picture(7, spot=True)).anomaly_map).squeeze()
    row, column = (int(place) for place in np.unravel_index(int(found.argmax()), tuple(found.shape)))
    assert abs(row - 98) < 16
    assert abs(column - 211) < 16


@pytest.mark.parametrize("overview", [False, True])
def test_a_checkpoint_brings_its_windows(tmp_path: Path, overview: bool) -> None:
    from anomalib.engine import Engine

    model = windowed(overview=overview)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False)
    engine._setup_trainer(model)
    engine.trainer.strategy.connect(model)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Nagl.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    encoder = loaded.model.encoder
    assert isinstance(encoder, WindowedEncoder)
    assert encoder.cut == model.model.encoder.cut
    assert loaded.predict(picture(8)).score == pytest.approx(model.predict(picture(8)).score, abs=1e-6)


def test_auto_leaves_small_images_whole() -> None:
    model = Nagl(backbone="gabor", variant="discriminant", window="auto").eval()
    model.set_references(ReferenceSet([picture(1), picture(2)]))
    assert not isinstance(model.model.encoder, WindowedEncoder)
    assert model.image_size == (448, 448)


def test_auto_goes_by_a_size_that_is_given() -> None:
    small, large = (Nagl(backbone="gabor", window="auto", image_size=size).model.encoder for size in (448, (448, 960)))
    assert small.cut is None
    assert large.cut is not None
    assert len(large.plan.corners) == 3


@pytest.mark.parametrize(
    "settings", [{"overview": True}, {"window": 64, "overlap": 64}, {"window": 60}, {"window": "large"}]
)
def test_windows_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Nagl(backbone="gabor", variant="discriminant", **settings)


def test_anomalib_fits_and_tests_at_the_size_of_the_images(tmp_path: Path) -> None:
    from anomalib.data import Folder
    from anomalib.engine import Engine

    for folder, count, spot in (("good", 4, False), ("bad", 3, True), ("masks", 3, True)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = spot_mask() * 255 if folder == "masks" else picture(i + 10 * spot, spot).permute(1, 2, 0) * 255
            Image.fromarray(pixels.numpy().astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    data = Folder(
        "windows", root=tmp_path, normal_dir="good", abnormal_dir="bad", mask_dir="masks", num_workers=0,
        train_batch_size=1, eval_batch_size=2, seed=0,
    )  # fmt: skip
    model = Nagl(backbone="gabor", window=64, overlap=16)
    engine = Engine(default_root_dir=tmp_path / "run", accelerator="cpu", logger=False)
    engine.fit(model, datamodule=data)
    assert model.image_size == (144, 256)
    results = engine.test(model, datamodule=data)
    assert results[0]["pixel_AUROC"] > 0.9
