"""Where no threshold was found there is no label and no mask, in torch and in whatever is exported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor
from support.exported import picture, pixels, reference_set

from anomalib_nagl import Nagl, NaglEdge

IMAGE = picture((120, 100), 71, True)
# What was found of the thresholds of images and pixels, and what there is then; anomalib takes one for the other.
FOUND = [
    ((None, None), True, set()),
    ((0.2, None), True, {"pred_label", "pred_mask"}),
    ((None, 0.2), True, {"pred_label", "pred_mask"}),
    ((0.2, None), False, {"pred_label"}),
    ((None, 0.2), False, {"pred_mask"}),
]


def model_with(post_processor: Any, found: tuple[float | None, float | None]) -> Nagl:
    model = Nagl("gabor", image_size=96, variant="extended-proxies", post_processor=post_processor).eval()
    model.set_references(reference_set(2, 1))
    for name, value in zip(("_image_threshold", "_pixel_threshold"), found, strict=True):
        getattr(model.post_processor, name).fill_(torch.nan if value is None else value)
    return model


def own(matching: bool) -> Any:
    from anomalib_nagl.plugin.post_processing import ReferencePostProcessor

    return ReferencePostProcessor("f1_adaptive", enable_threshold_matching=matching)


@pytest.mark.parametrize(("found", "matching", "there"), FOUND)
@pytest.mark.parametrize("stock", [False, True])
def test_in_torch(found: tuple[float | None, float | None], matching: bool, there: set[str], stock: bool) -> None:
    model = model_with(PostProcessor(enable_threshold_matching=matching) if stock else own(matching), found)
    one, batch = model.predict(IMAGE), model(IMAGE[None])
    assert (one.label is not None, one.mask is not None) == ("pred_label" in there, "pred_mask" in there)
    assert {name for name in ("pred_label", "pred_mask") if getattr(batch, name) is not None} == there
    assert all(getattr(batch, name).dtype == torch.bool for name in there)
    assert set(model_outputs(model)) == {"pred_score", "anomaly_map"} | there


def model_outputs(model: Nagl) -> tuple[str, ...]:
    from anomalib_nagl.plugin.exporting import exportable

    return exportable(model).outputs


@pytest.mark.slow
@pytest.mark.parametrize(("found", "matching", "there"), [FOUND[0], FOUND[3], FOUND[1]])
def test_in_exports(
    found: tuple[float | None, float | None],
    matching: bool,
    there: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)
    model = model_with(own(matching), found)
    expected = model.predict(IMAGE)
    core, openvino, onnx = ov.Core(), model.to_openvino(tmp_path), model.to_onnx(tmp_path)
    for file in (openvino, onnx):
        names = {port.any_name for port in core.read_model(file).outputs}
        assert names == {"pred_score", "anomaly_map"} | there
    edge = NaglEdge(openvino).predict(pixels(IMAGE))
    assert (edge.label is not None, edge.mask is not None) == ("pred_label" in there, "pred_mask" in there)
    assert edge.score == pytest.approx(expected.score, abs=1e-5)
    by_torch = TorchInferencer(model.to_torch(tmp_path), "cpu").predict(pixels(IMAGE))
    by_openvino = OpenVINOInferencer(openvino, "CPU").predict(pixels(IMAGE))
    for one in (by_torch, by_openvino):
        assert {name for name in ("pred_label", "pred_mask") if getattr(one, name) is not None} == there
    if "pred_label" in there:
        labels = [expected.label, edge.label, bool(by_torch.pred_label), bool(np.squeeze(by_openvino.pred_label))]
        assert len(set(labels)) == 1


def test_a_run_says_which_metrics_are_left_out(drawn: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """anomalib's F1 score would count scores above 0.5; AUROC needs no threshold."""
    data = MVTecAD(root=drawn, category="plug", num_workers=0)
    model = Nagl("gabor", image_size=96, variant="extended-proxies", threshold="f1_adaptive", visualizer=False)
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, limit_val_batches=0)
    model.set_references(reference_set(2, 1))
    with caplog.at_level(logging.WARNING):
        (found,) = engine.test(model, datamodule=data)
    assert found["image_AUROC"] > 0
    assert not np.isfinite(found.get("image_F1Score") or np.nan)
    assert "no threshold, expected one for image_F1Score" in caplog.text
    predictions = engine.predict(model, datamodule=data)
    assert predictions is not None
    assert all(batch.pred_label is None and batch.pred_mask is None for batch in predictions)
