"""What a box is taught: as good as torch with the same references, by several detectors, and for the next model."""

from __future__ import annotations

import shutil
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
    backbone,
    defect_mask,
    make_model,
    picture,
    pixels,
    reference_set,
    set_thresholds,
    teach,
)

from anomalib_nagl import Nagl, NaglEdge
from anomalib_nagl.bank.patch_masks import resize_mask
from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.edge import EdgeError
from anomalib_nagl.edge.baking import bake
from anomalib_nagl.edge.migration import migrate


def test_ten_lessons_a_removal_and_an_undo_are_as_good_as_torch(edge_model: Nagl, exported: Path) -> None:
    detector = NaglEdge(exported)
    for i in range(1, 6):
        teach(detector, "abnormal", i)
        teach(detector, "normal", i)
    edge_model.set_references(reference_set(6, 6))
    assert_like_torch(detector, edge_model)
    score = detector.predict(pixels(picture(PICTURE, 71, True))).score
    detector.remove("abnormal 5")
    edge_model.set_references(reference_set(6, 5))
    assert_like_torch(detector, edge_model)
    detector.undo()
    edge_model.set_references(reference_set(6, 6))
    assert_like_torch(detector, edge_model)
    assert detector.predict(pixels(picture(PICTURE, 71, True))).score == pytest.approx(score, abs=1e-6)
    assert_like_torch(NaglEdge(exported), edge_model)


def test_thresholds_found_on_the_box_are_those_of_torch(edge_model: Nagl, exported: Path) -> None:
    detector = NaglEdge(exported)
    teach(detector, "abnormal", 1)
    teach(detector, "normal", 1)
    edge_model.set_references(reference_set(2, 2))
    core = edge_model.model
    tokens = ReferenceTokens(
        core.normal_tokens, core.abnormal_tokens, core.abnormal_patch_mask, core.abnormal_localized
    )
    expected = calibrate(core, tokens, edge_model.bank_limit)
    detector.set_thresholds(image=0.6)
    found = detector.calibrate()
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert found.overlap == expected.overlap
    assert NaglEdge(exported).scales == detector.scales == (found.image, found.pixel)
    assert detector.calibration == found.facts()
    assert detector.thresholds == pytest.approx((0.6, 0.5))  # where it was on the scale
    assert detector.history()[-1].action == "calibrate"


def test_a_detector_notices_what_another_one_taught(exported: Path) -> None:
    watching, following, teaching = NaglEdge(exported), NaglEdge(exported, follow=True), NaglEdge(exported)
    image = pixels(picture(PICTURE, 71, True))
    before = watching.predict(image).score
    teach(teaching, "abnormal", 1)
    after = teaching.predict(image).score
    assert watching.predict(image).score == before
    assert following.predict(image).score == after != before
    assert watching.changed()
    watching.reload()
    assert watching.predict(image).score == after
    assert not watching.changed()


def test_a_region_teaches_what_it_shows_and_nothing_else(exported: Path) -> None:
    detector = NaglEdge(exported)
    image, defect = picture(PICTURE, 22, defect=True), defect_mask(PICTURE, 22).numpy()
    alarm = detector.predict(pixels(image))
    detector.add_normal(pixels(image), "alarm", region=defect)
    taught = detector.predict(pixels(image))
    shown = resize_mask(defect, taught.map.shape)
    assert taught.map[shown].mean() < alarm.map[shown].mean() - 1e-3
    (pool,) = detector.lesson("alarm").pools.values()
    assert 0 < len(pool) < 64
    detector.switch("alarm", False)
    assert detector.predict(pixels(image)).map == pytest.approx(alarm.map, abs=1e-6)
    assert [one.active for one in detector.references] == [True, True, False]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An export with another backbone, of another size."""
    model = make_model(backbone("cnn", tmp_path), (128, 160), "extended-proxies")
    return model.to_openvino(tmp_path / "other")


@pytest.mark.slow
def test_what_was_taught_moves_to_another_backbone(exported: Path, other: Path, tmp_path: Path) -> None:
    expected = NaglEdge(shutil.copytree(other.parent, tmp_path / "fresh") / other.name)
    detector, new = NaglEdge(exported), NaglEdge(other)
    teach(detector, "abnormal", 1)
    Image.fromarray(pixels(picture(PICTURE, 11))).save(tmp_path / "file.png")
    detector.add_normal(tmp_path / "file.png", "file")
    thresholds = new.thresholds
    done = migrate(detector.bank, new)
    assert done.encoded == ("abnormal 1", "file")
    assert done.present == ("normal 0", "abnormal 0")
    assert any(line.startswith("backbone: ") for line in done.differences)
    assert new.thresholds == thresholds
    teach(expected, "abnormal", 1)
    expected.add_normal(tmp_path / "file.png", "file")
    image = pixels(picture(PICTURE, 71, True))
    assert new.predict(image).score == pytest.approx(expected.predict(image).score, abs=1e-6)
    assert [one.sha256 for one in new.references] == [one.sha256 for one in expected.references]
    new.undo()
    assert [one.name for one in new.references] == ["normal 0", "abnormal 0"]
    assert np.isfinite(new.predict(image).score)


def test_commands_on_the_bank(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(pixels(picture(PICTURE, 21, defect=True))).save(tmp_path / "scratch.png")
    Image.fromarray((defect_mask(PICTURE, 21).numpy() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    model = str(exported)

    def edge(*arguments: object) -> str:
        assert nagl("edge", *map(str, arguments)) == 0
        return capsys.readouterr().out

    assert "learnt scratch; 3 references" in edge(
        "add-defect", model, tmp_path / "scratch.png", "--mask", tmp_path / "mask.png", "--type", "dent", "--by", "ann"
    )
    edge("add-normal", model, tmp_path / "scratch.png", "--region", tmp_path / "mask.png", "--name", "glare")
    edge("rename", model, "glare", "reflex")
    edge("off", model, "reflex")
    rows = [line.split("\t") for line in edge("list", model).splitlines()]
    assert rows[0][:4] == ["kind", "name", "type", "active"]
    assert [row[:4] for row in rows[3:]] == [["abnormal", "scratch", "dent", "yes"], ["region", "reflex", "good", "no"]]
    assert "reflex is on" in edge("on", model, "reflex")
    assert "took back change 2 of ann: add abnormal scratch" in edge("undo", model, "2")
    assert "forgot reflex" in edge("remove", model, "reflex")
    actions = [line.split("\t")[3] for line in edge("history", model).splitlines()[1:]]
    assert actions == ["created", "add", "add", "rename", "off", "on", "undo", "remove"]
    assert "raw threshold of image" in edge("calibrate", model)
    for _ in range(2):
        assert "the threshold of images is 0.55, that of pixels 0.5" in edge("set-threshold", model, 0.55)
    assert nagl("edge", "set-threshold", model, "0.999") == 2
    assert "none of them would be called defective; add --yes" in capsys.readouterr().err
    assert "of images is 0.999, that of pixels 0.6" in edge("set-threshold", model, 0.999, "--pixel", 0.6, "--yes")
    assert nagl("edge", "set-threshold", model, "17") == 2
    assert nagl("edge", "set-threshold", model) == 2
    capsys.readouterr()
    edge("add-defect", model, "--image", tmp_path / "scratch.png", "--name", "other")  # as in version 0.1
    edge("remove", model, "--name", "other")
    assert nagl("edge", "undo", model, "--by", "nobody") == 2
    assert "no change of nobody to take back" in capsys.readouterr().err
    assert nagl("edge", "remove", model) == 2
    assert "found no name, expected NAME behind the model" in capsys.readouterr().err


def test_an_export_over_taught_references_says_how_to_keep_them(
    edge_model: Nagl, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge_model.set_references(reference_set(1, 1))
    set_thresholds(edge_model)
    path = edge_model.to_openvino(tmp_path)
    teach(NaglEdge(path), "abnormal", 1)
    edge_model.to_openvino(tmp_path)
    aside = path.with_name("model.taught-1.bank")
    assert f"anomalib-nagl edge migrate {aside} {path}" in caplog.text
    done = migrate(aside, NaglEdge(path))
    assert done.copied == ("abnormal 1",)
    assert [one.name for one in NaglEdge(path).references] == ["normal 0", "abnormal 0", "abnormal 1"]


def test_two_models_in_one_folder_have_a_bank_each(edge_model: Nagl, exported: Path, tmp_path: Path) -> None:
    edge_model.set_references(reference_set(1, 1))
    first = Path(edge_model.to_openvino(tmp_path, model_file_name="first"))
    teach(NaglEdge(first), "abnormal", 1)
    edge_model.set_references(reference_set(2, 0))
    second = Path(edge_model.to_openvino(tmp_path, model_file_name="second"))
    assert [one.name for one in NaglEdge(first).references] == ["normal 0", "abnormal 0", "abnormal 1"]
    assert [one.name for one in NaglEdge(second).references] == ["normal 0", "normal 1"]
    with pytest.raises(EdgeError, match="no change 1 to take back"):
        NaglEdge(second).undo(1)  # what was exported


def test_what_was_taught_is_baked_for_any_program(exported: Path, tmp_path: Path) -> None:
    detector = NaglEdge(exported)
    teach(detector, "abnormal", 1)
    teach(detector, "normal", 1)
    assert nagl("edge", "bake", str(exported), "-o", str(tmp_path / "taught.xml")) == 0
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    plain, before = (ov.Core().compile_model(path, "CPU", exact) for path in (tmp_path / "taught.xml", exported))
    for seed in (70, 71):
        image = picture((300, 190), seed, seed % 2 == 1)
        found, expected = plain(image[None].numpy()), detector.predict(pixels(image))
        assert float(found["pred_score"][0]) == pytest.approx(expected.score, abs=1e-5)
        assert np.abs(found["anomaly_map"][0, 0] - expected.map).max() < 1e-5
        assert np.abs(before(image[None].numpy())["anomaly_map"] - found["anomaly_map"]).max() > 1e-3
    precise = [path.read_text().count("precise") for path in (tmp_path / "taught.xml", exported)]
    assert precise[0] == precise[1] > 0
    detector.bake(exported)  # in place: the folder stays whole
    assert NaglEdge(exported).predict(pixels(image)).score == pytest.approx(expected.score, abs=1e-6)
    with pytest.raises(EdgeError, match=r"expected a name that ends in \.xml"):
        detector.bake(tmp_path / "taught.bin")
    with pytest.raises(EdgeError, match="found no constants"):
        bake(
            exported.with_name("model.encoder.xml"), tmp_path / "x.xml", {"normal_bank": np.zeros((1, 48), np.float32)}
        )


def test_graphs_of_another_export_teach_nothing(edge_model: Nagl, exported: Path, tmp_path: Path) -> None:
    """Another one took their place after the detector had started."""
    detector = NaglEdge(exported)
    before = detector.predict(pixels(picture(PICTURE, 71, True))).score
    edge_model.set_references(reference_set(1, 1))
    with torch.no_grad():
        edge_model.model.head.learnable_proxies.weight.add_(1)
    try:
        other = Path(edge_model.to_openvino(tmp_path))
    finally:
        with torch.no_grad():
            edge_model.model.head.learnable_proxies.weight.sub_(1)
    for file in other.parent.iterdir():
        if file.suffix != ".bank":
            shutil.copy(file, exported.parent)
    with pytest.raises(EdgeError, match="another content than was exported"):
        teach(detector, "abnormal", 1)
    assert [one.name for one in detector.references] == ["normal 0", "abnormal 0"]
    assert detector.predict(pixels(picture(PICTURE, 71, True))).score == before
