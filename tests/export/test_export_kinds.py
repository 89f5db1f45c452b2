"""Files of every kind: ONNX, and what compressing costs, which is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import CompressionType, OpenVINOInferencer
from support.exported import Answer, assert_same, backbone, by_openvino, by_torch, make_model, picture, pixels

from anomalib_nagl import Nagl

pytestmark = pytest.mark.slow  # every test compiles an export of its own

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nagl, torch.Tensor, Answer, Path]:
    """A CNN, which all ways of compressing change, with images and torch's answer."""
    folder = tmp_path_factory.mktemp("compressed")
    model = make_model(backbone("cnn", folder), (224, 224), abnormal=2)
    images = torch.stack([picture((300, 260), 40 + i, i % 2 == 1) for i in range(6)])
    return model, images, by_torch(model, images), folder


def test_onnx_has_one_input_and_the_same_answer(compared: tuple[Nagl, torch.Tensor, Answer, Path]) -> None:
    model, images, expected, folder = compared
    path = model.to_onnx(folder / "onnx")
    graph = ov.Core().read_model(path)
    assert [port.any_name for port in graph.inputs] == ["input"]
    assert [port.any_name for port in graph.outputs] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert_same(by_openvino(ov.Core().compile_model(graph, "CPU", F32), images), expected)


def calibration(folder: Path) -> MVTecAD:
    """Images in MVTec's layout to calibrate with."""
    from PIL import Image

    root = folder / "data/part"
    for kind, count in (("train/good", 4), ("test/good", 3), ("test/square", 3), ("ground_truth/square", 3)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            suffix = "_mask" if kind.startswith("ground") else ""
            drawn = pixels(picture((240, 240), 50 + i, "square" in kind))
            Image.fromarray(drawn[..., 0] if suffix else drawn).save(root / kind / f"{i:03}{suffix}.png")
    return MVTecAD(root=folder / "data", category="part", num_workers=0, eval_batch_size=2)


# Budgets of score and map: 16 bits, 8-bit weights, and 8-bit arithmetic of the encoder alone. Quantising the whole
# graph, as anomalib does, moves maps by up to 1.
KINDS = {None: (0.005, 1e-3), "FP16": (0.02, 0.02), "INT8": (0.1, 0.1), "INT8_PTQ": (0.3, 0.4)}


@pytest.mark.parametrize("kind", KINDS)
def test_compressed(kind: str | None, compared: tuple[Nagl, torch.Tensor, Answer, Path]) -> None:
    """Each file loads in anomalib's inferencer; what it deviates by is printed, at f32 and at the device's default."""
    model, images, expected, folder = compared
    compression = CompressionType[kind] if kind else None
    path = model.to_openvino(folder / str(kind), compression_type=compression, datamodule=calibration(folder))
    score, pixel = KINDS[kind]
    for hint in (F32, {}):
        found = by_openvino(ov.Core().compile_model(path, "CPU", hint), images)
        deviation = np.abs(found.score - expected.score).max(), np.abs(found.map - expected.map).max()
        print(f"{kind or 'FP32'} {hint.get('INFERENCE_PRECISION_HINT', 'default')}: score {deviation[0]:.2g}, "
              f"map {deviation[1]:.2g}, flipped {(found.label != expected.label).sum()}")  # fmt: skip
        if hint:
            assert deviation[0] <= score
            assert deviation[1] <= pixel
    inferencer = OpenVINOInferencer(path, "CPU", config=F32)
    one = inferencer.predict(pixels(images[0]))
    assert abs(float(np.squeeze(one.pred_score)) - expected.score[0]) <= score


def test_comparison_stays_f32_where_the_device_prefers_less(compared: tuple[Nagl, torch.Tensor, Answer, Path]) -> None:
    """Every operator outside the encoder carries the wish, and no operator of the encoder does."""
    path = compared[3] / "None/weights/openvino/model.xml"
    graph = ov.Core().read_model(path)
    notes = {node.get_friendly_name(): list(dict(node.get_rt_info())) for node in graph.get_ordered_ops()}
    precise = {name for name, keys in notes.items() if any("Precision" in key for key in keys)}
    matmuls = {n.get_friendly_name() for n in graph.get_ordered_ops() if n.get_type_name() == "MatMul"}
    convolutions = {n.get_friendly_name() for n in graph.get_ordered_ops() if "Convolution" in n.get_type_name()}
    assert matmuls <= precise
    assert convolutions.isdisjoint(precise)


def test_model_api_reads_it(compared: tuple[Nagl, torch.Tensor, Answer, Path]) -> None:
    models = pytest.importorskip("model_api.models", reason="openvino-model-api is not installed")
    path = compared[3] / "None/weights/openvino/model.xml"
    adapters = pytest.importorskip("model_api.adapters")
    adapter = adapters.OpenvinoAdapter(adapters.create_core(), str(path), device="CPU", plugin_config=F32)
    wrapper = models.AnomalyDetection(adapter, {}, preload=True)
    for image, score, label in zip(compared[1], compared[2].score, compared[2].label, strict=True):
        result = wrapper(pixels(image))
        assert result.pred_score == pytest.approx(float(score), abs=1e-4)
        assert result.pred_label == str(bool(label))  # a text
