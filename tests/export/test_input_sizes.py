"""Exports for images of one size: they compile, answer as torch does, and refuse every other size in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from anomalib.pre_processing import PreProcessor
from support.exported import assert_same, backbone, by_openvino, by_torch, make_model, picture, pixels
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_nagl import Nagl
from anomalib_nagl.edge import EdgeError, NaglEdge

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def assert_box_like_torch(path: Path, model: Nagl, size: tuple[int, int]) -> None:
    image = picture(size, 71, True)
    expected, found = by_torch(model, image[None]), NaglEdge(path).predict(pixels(image))
    assert found.score == pytest.approx(float(expected.score[0]), abs=1e-4)
    assert np.abs(found.map - expected.map[0, 0]).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["extended", "paper"])
@pytest.mark.parametrize("kind", ["gabor", "vit", "cnn"])
def test_one_size(kind: str, variant: str, tmp_path: Path) -> None:
    """Smaller and larger than the network input, upright and lying, and as large as it is."""
    runtime = pytest.importorskip("onnxruntime")
    model = make_model(backbone(kind, tmp_path), (224, 224), variant)
    size = {"gabor": (120, 160), "vit": (410, 230), "cnn": (224, 224)}[kind]
    path, onnx = model.to_openvino(tmp_path, input_size=size), model.to_onnx(tmp_path, input_size=size)
    images = picture(size, 40)[None].repeat(2, 1, 1, 1)
    expected, core = by_torch(model, images), ov.Core()
    for file in (path, onnx):
        assert_same(by_openvino(core.compile_model(file, "CPU", F32), images), expected, score=1e-3)
    score = runtime.InferenceSession(onnx).run(["pred_score"], {"input": images.numpy()})[0]
    assert np.abs(score - expected.score).max() < 1e-3
    single = core.read_model(path)
    single.reshape([1, 3, *size])  # as an NPU wants it
    found = by_openvino(core.compile_model(single, "CPU", F32), images[:1])
    assert np.abs(found.score - expected.score[:1]).max() < 1e-3
    if variant == "extended":
        assert_box_like_torch(path, model, size)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model("gabor", (96, 96))
    return model.to_openvino(tmp_path_factory.mktemp("fixed"), input_size=(120, 160))


@pytest.mark.parametrize("size", [(160, 120), (119, 160), (240, 320)])
def test_another_size_is_refused_and_the_next_image_is_scored(fixed: Path, size: tuple[int, int]) -> None:
    detector, good = NaglEdge(fixed, requests=2), pixels(picture((120, 160), 3))
    expected = detector.predict(good).score
    ask: list[Any] = [
        lambda image: detector.predict(image),
        lambda image: list(detector.predict_all([good, image])),
        lambda image: detector.add_normal(image),
    ]
    for call in ask:
        with pytest.raises(EdgeError, match=rf"found an image of size \({size[0]}, {size[1]}\), expected \(120, 160\)"):
            call(pixels(picture(size, 4)))
    assert [found.score for found in detector.predict_all([good] * 5)] == pytest.approx([expected] * 5)


def test_a_dynamic_export_may_be_reshaped(tmp_path: Path) -> None:
    model = make_model("gabor", (96, 96))
    core = ov.Core()
    for file in (model.to_openvino(tmp_path), model.to_onnx(tmp_path)):
        graph = core.read_model(file)
        graph.reshape([1, 3, 77, 130])
        image = picture((77, 130), 40)[None]
        assert_same(by_openvino(core.compile_model(graph, "CPU", F32), image), by_torch(model, image), score=1e-4)


def test_a_stock_pre_processor_stays_in_the_graph(tmp_path: Path) -> None:
    """What it does to images no box could know: it is computed where it is, for images of any size."""
    steps = Compose([Resize((128, 128)), CenterCrop((96, 96)), Normalize([0.5] * 3, [0.5] * 3)])
    model = make_model("gabor", (96, 96))
    model.pre_processor = PreProcessor(transform=steps)
    path = model.to_openvino(tmp_path)
    for size in ((150, 140), (90, 200)):
        assert_box_like_torch(path, model, size)
