"""A region of interest: torch, the exported file, the box and its command line look at the same place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from PIL import Image
from support.commands import nagl
from support.exported import (
    PICTURE,
    assert_like_torch,
    assert_same,
    by_openvino,
    by_torch,
    make_model,
    picture,
    pixels,
    reference_set,
    teach,
)

from anomalib_nagl import Nagl, NaglEdge
from anomalib_nagl.bank.interest import inside_patches
from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.edge import EdgeError
from anomalib_nagl.edge.migration import migrate


def drawn(size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """All but the right third and a box in the upper left."""
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] * 2 // 3] = 255
    mask[: size[0] // 3, : size[1] // 4] = 0
    return mask


@pytest.fixture
def looking(edge_model: Nagl, exported_once: Path) -> Iterator[Nagl]:
    """The model that was exported, after that, which looks at the region."""
    edge_model.model.set_region(drawn() > 0)
    yield edge_model
    edge_model.model.set_region(None)


def test_the_box_looks_where_torch_does(looking: Nagl, exported: Path, tmp_path: Path) -> None:
    """While it is taught and undone, in the file that is baked, and in an export that begins with the region."""
    detector = NaglEdge(exported)
    whole = detector.predict(pixels(picture(PICTURE, 71, True)))
    Image.fromarray(drawn()).save(tmp_path / "mask.png")
    detector.set_region(tmp_path / "mask.png")
    looking.set_references(reference_set(1, 1))
    assert_like_torch(detector, looking)
    teach(detector, "abnormal", 1)
    teach(detector, "normal", 1)
    looking.set_references(reference_set(2, 2))
    assert_like_torch(detector, looking)
    assert_like_torch(NaglEdge(exported), looking)

    found = detector.predict(pixels(picture(PICTURE, 71, True)))
    outside = ~detector.region
    assert detector.region.shape == found.map.shape
    assert len(np.unique(found.map[outside])) == 1
    assert found.map[outside].max() < found.map[~outside].min()
    assert not found.mask[outside].any()
    assert found.score != whole.score

    images = torch.stack([picture(PICTURE, seed, seed % 2 == 1) for seed in (70, 71)])
    baked = ov.compile_model(detector.bake(tmp_path / "baked.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_same(by_openvino(baked, images), by_torch(looking, images), 1e-5, 1e-5)
    again = looking.to_openvino(tmp_path / "again")
    exported_anew = NaglEdge(again)
    assert np.array_equal(exported_anew.region, detector.region)
    assert_like_torch(exported_anew, looking)
    compiled = ov.compile_model(again, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_same(by_openvino(compiled, images), by_torch(looking, images), 1e-5, 1e-5)

    detector.set_region(None)
    assert detector.region is None
    looking.model.set_region(None)
    looking.set_references(reference_set(2, 2))
    assert_like_torch(detector, looking)


def test_scales_are_found_within_it_as_in_torch(looking: Nagl, exported: Path) -> None:
    detector = NaglEdge(exported)
    teach(detector, "abnormal", 1)
    teach(detector, "normal", 1)
    detector.set_region(drawn())
    before = detector.scales
    looking.set_references(reference_set(2, 2))
    core = looking.model
    known = core.abnormal_patch_mask, core.abnormal_localized
    expected = calibrate(core, ReferenceTokens(core.normal_tokens, core.abnormal_tokens, *known), looking.bank_limit)
    found = detector.calibrate()
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert detector.scales != before
    nearest = detector.predict(pixels(picture(PICTURE, 21, True))).nearest_reference
    assert nearest.name == "abnormal 1"
    assert nearest.similarity == pytest.approx(1, abs=1e-5)


def test_a_model_is_told_its_region_by_a_file_and_keeps_it_in_checkpoints(tmp_path: Path) -> None:
    Image.fromarray(drawn()).save(tmp_path / "mask.png")
    model = make_model("gabor", (96, 128), "discriminant", 2, 2)
    whole = by_torch(model, picture(PICTURE, 71, True)[None])
    told = Nagl(backbone="gabor", image_size=(96, 128), region=str(tmp_path / "mask.png")).eval()
    told.set_references(reference_set(2, 2))
    assert told.model.region.shape == (96, 128)
    seen = by_torch(told, picture(PICTURE, 71, True)[None])
    assert seen.score != whole.score
    from lightning.pytorch import Trainer

    trainer = Trainer(logger=False, enable_checkpointing=False)
    trainer.strategy.connect(told)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    (tmp_path / "mask.png").unlink()
    loaded = Nagl.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert np.array_equal(by_torch(loaded, picture(PICTURE, 71, True)[None]).map, seen.map)
    Image.fromarray(255 - drawn()).save(tmp_path / "other.png")
    other = Nagl.load_from_checkpoint(tmp_path / "model.ckpt", region=str(tmp_path / "other.png")).eval()
    fresh = Nagl(backbone="gabor", image_size=(96, 128), region=str(tmp_path / "other.png")).eval()
    fresh.set_references(reference_set(2, 2))
    image = picture(PICTURE, 71, True)[None]
    assert_same(by_torch(other, image), by_torch(fresh, image), 1e-5, 1e-5)
    detector = NaglEdge(other.to_openvino(tmp_path))
    assert_like_torch(detector, other, 3e-4)
    what_changes_outside_changes_nothing(detector)


def what_changes_outside_changes_nothing(detector: NaglEdge) -> None:
    """Without a head, which reads all of an image."""
    tokens = detector.encode(pixels(picture(PICTURE, 70)))
    inside = inside_patches(detector.region.astype(np.float32), tuple(detector.compatibility["grid"]))
    spoilt = np.where(inside[:, None], tokens, tokens + np.float32(0.3) * np.arange(tokens.shape[1], dtype=np.float32))
    seen, same = detector.score(tokens), detector.score(spoilt)
    assert seen.score == same.score
    assert np.array_equal(seen.map, same.map)
    assert seen.nearest_reference == same.nearest_reference
    detector.set_region(None)
    assert detector.score(tokens).score != detector.score(spoilt).score


def test_it_is_taken_over_by_a_bank_that_has_none(exported: Path, tmp_path: Path) -> None:
    other = shutil.copytree(exported.parent, tmp_path / "other") / "model.xml"
    old, new = NaglEdge(exported), NaglEdge(other)
    old.set_region(drawn())
    migrate(old.bank, new)
    assert np.array_equal(new.region, old.region)
    new.undo()
    assert new.region is None
    new.set_region(255 - drawn())
    migrate(old.bank, new)
    assert np.array_equal(new.region, ~old.region)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 4)), "marks nothing"), (np.full((4, 4), np.nan), "no numbers"), (np.ones((4, 4, 3)), "of shape"),
        ([[1, 2], [3]], "no array"), ("missing.png", "missing.png"),
    ],
)  # fmt: skip
def test_what_is_no_region_is_refused(mask: object, words: str, exported_once: Path) -> None:
    with pytest.raises(EdgeError, match=words):
        NaglEdge(exported_once).set_region(mask)


def test_the_command_sets_takes_back_and_clears_it(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(drawn()).save(tmp_path / "mask.png")
    assert nagl("edge", "region", exported, tmp_path / "mask.png", "--calibrate") == 0
    assert "looks at 59% of every image, always at the same place; found the scales anew" in capsys.readouterr().out
    assert NaglEdge(exported).region.mean() == pytest.approx(0.59, abs=0.01)
    assert nagl("edge", "history", exported) == 0
    assert "59% of the picture" in capsys.readouterr().out
    assert nagl("edge", "region", exported, "--clear") == 0
    assert NaglEdge(exported).region is None
    assert "looks everywhere; scales are as before" in capsys.readouterr().out
    assert nagl("edge", "undo", exported) == 0
    assert NaglEdge(exported).region is not None
    assert nagl("edge", "region", exported) == 2
    assert "found no mask, expected MASK behind the model, or --clear" in capsys.readouterr().err
