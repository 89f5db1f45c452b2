"""Models with windows in the exported file and on the box: the same answers as in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.deploy.export import CompressionType

from anomalib_nagl import Nagl, NaglEdge
from anomalib_nagl.export.loops import PRECISE
from anomalib_nagl.io.precise_layers import precise_layers
from anomalib_nagl.references.reference_set import ReferenceSet

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def picture(size: tuple[int, int], seed: int, spot: bool = False) -> torch.Tensor:
    """A smooth texture with or without a bright spot."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 6 + 2, width // 6 + 2, generator=generator)
    image = 0.3 + 0.2 * torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
    if spot:
        image[:, height // 3 : height // 3 + 12, width // 2 : width // 2 + 12] = 0.95
    return image


def spot_mask(size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    mask = torch.zeros(size)
    mask[height // 3 : height // 3 + 12, width // 2 : width // 2 + 12] = 1
    return mask


def make(size: tuple[int, int], **settings: object) -> Nagl:
    """A model with windows and references."""
    given = {"backbone": "gabor", "variant": "discriminant", "window": 64, "overlap": 16, **settings}
    model = Nagl(**given).eval()
    normal = [picture(size, 1), picture(size, 2)]
    model.set_references(ReferenceSet(normal, [picture(size, 3, True)], [spot_mask(size)]))
    return model


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nagl, Path]:
    """A model with an overview, and its file."""
    model = make((150, 262))
    return model, model.to_openvino(tmp_path_factory.mktemp("windows"))


@pytest.mark.parametrize("size", [(150, 262), (80, 500), (40, 40)])
def test_every_runtime_says_the_same(exported: tuple[Nagl, Path], size: tuple[int, int]) -> None:
    model, path = exported
    inferencer, detector = OpenVINOInferencer(path=path, device="CPU", config=EXACT), NaglEdge(path)
    for spot in (False, True):
        image = picture(size, 11, spot)
        wanted = model(image[None])
        found, boxed = inferencer.predict(pixels(image)), detector.predict(pixels(image))
        assert float(found.pred_score.reshape(())) == pytest.approx(float(wanted.pred_score), abs=5e-4)
        assert boxed.score == pytest.approx(float(wanted.pred_score), abs=5e-4)
        np.testing.assert_allclose(boxed.map, wanted.anomaly_map[0, 0].numpy(), atol=2e-3)
        np.testing.assert_allclose(found.anomaly_map.squeeze(), wanted.anomaly_map[0, 0].numpy(), atol=2e-3)
        assert boxed.label == bool(wanted.pred_label)


def test_images_in_a_batch(exported: tuple[Nagl, Path]) -> None:
    model, path = exported
    images = torch.stack([picture((150, 262), seed, seed == 2) for seed in (1, 2, 3)])
    graph = ov.Core().compile_model(path, "CPU", EXACT)
    found = graph(images.numpy())["pred_score"].reshape(-1)
    np.testing.assert_allclose(found, model(images).pred_score.reshape(-1).numpy(), atol=5e-4)


def test_a_lesson_sees_the_windows_that_its_mask_touches(exported: tuple[Nagl, Path], tmp_path: Path) -> None:
    model, path = exported
    detector = NaglEdge(path, bank=_copy(path, tmp_path))
    image, mask = picture((150, 262), 5, True), spot_mask((150, 262))
    detector.add_abnormal(pixels(image), mask.numpy(), name="taught")
    pools = detector.lesson("taught").pools
    encoder = model.model.encoder
    tokens = encoder(model.pre_processor(image[None]))[0].numpy()
    known = sum(len(pool) for pool in pools.values())
    assert 4 <= known < len(tokens)
    marked = pools["marked"]
    np.testing.assert_allclose(marked.head(len(marked)), tokens[marked.places(len(marked))], atol=2e-4)
    calibrated = detector.calibrate()
    assert np.isfinite([*calibrated.image, *calibrated.pixel]).all()
    assert calibrated.image.raw_defective > calibrated.image.raw_good


def test_a_region_is_looked_at_in_windows_too(exported: tuple[Nagl, Path], tmp_path: Path) -> None:
    _, path = exported
    looked = np.zeros((150, 262), bool)
    looked[:, :120] = True  # the spot lies right of it
    image = picture((150, 262), 11, True)
    detector, torch_model = NaglEdge(path, bank=_copy(path, tmp_path)), make((150, 262))
    seen = detector.predict(pixels(image))
    detector.set_region(looked)
    torch_model.model.set_region(looked)
    torch_model.model.adapt_again(torch_model.bank_limit)
    found, wanted = detector.predict(pixels(image)), torch_model(image[None])
    assert len(np.unique(found.map[:, 140:])) == 1  # right of the region, but for the patch that it cuts
    assert found.score < seen.score
    assert found.score == pytest.approx(float(wanted.pred_score), abs=5e-4)
    np.testing.assert_allclose(found.map, wanted.anomaly_map[0, 0].numpy(), atol=2e-3)


def test_thresholds_on_the_box_are_those_of_torch(exported: tuple[Nagl, Path], tmp_path: Path) -> None:
    _, path = exported
    detector = NaglEdge(path, bank=_copy(path, tmp_path))
    before = detector.scales
    detector.calibrate()
    np.testing.assert_allclose(np.array(detector.scales), np.array(before), atol=2e-4)


def test_sixteen_bit_weights_say_nearly_the_same(tmp_path: Path) -> None:
    model = make((96, 160))
    path = model.to_openvino(tmp_path, compression_type=CompressionType.FP16)
    image = picture((96, 160), 12, True)
    score = NaglEdge(path).predict(pixels(image)).score
    assert score == pytest.approx(float(model(image[None]).pred_score), abs=5e-3)


def test_one_size(tmp_path: Path) -> None:
    model = make((96, 160), overview=False)
    path = model.to_openvino(tmp_path, input_size=(100, 170))
    image = picture((100, 170), 12, True)
    found = OpenVINOInferencer(path=path, device="CPU", config=EXACT).predict(pixels(image))
    assert float(found.pred_score.reshape(())) == pytest.approx(float(model(image[None]).pred_score), abs=5e-4)


def test_what_windows_do_not_go_into_is_refused(tmp_path: Path) -> None:
    model = make((96, 160))
    with pytest.raises(ValueError, match="found a model with windows for an ONNX file"):
        model.to_onnx(tmp_path)
    with pytest.raises(ValueError, match="found a model with windows for 8-bit integers"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8)


def test_what_was_taught_is_baked_into_the_file(exported: tuple[Nagl, Path], tmp_path: Path) -> None:
    _, path = exported
    detector = NaglEdge(path, bank=_copy(path, tmp_path))
    detector.add_normal(pixels(picture((150, 262), 21)), name="another")
    image = pixels(picture((150, 262), 12, True))
    baked = detector.bake(tmp_path / "baked.xml")
    found = OpenVINOInferencer(path=baked, device="CPU", config=EXACT).predict(image)
    assert float(found.pred_score.reshape(())) == pytest.approx(detector.predict(image).score, abs=1e-4)


def test_comparison_and_resizing_in_loops_stay_exact_and_encoding_does_not(exported: tuple[Nagl, Path]) -> None:
    _, path = exported
    exact = precise_layers(path)
    assert any(name.startswith("patches/") for name in exact)
    assert any(name.startswith(PRECISE) for name in exact)
    inside = [
        node.get_friendly_name()
        for loop in ov.Core().read_model(path).get_ordered_ops()
        if loop.get_type_name() == "TensorIterator"
        for node in loop.get_body().get_ordered_ops()
    ]
    encoding = {name for name in inside if not name.startswith(("patches/", "band/", PRECISE))}
    assert encoding
    assert not encoding & exact


def _copy(path: Path, folder: Path) -> Path:
    """A copy of the bank beside an exported file."""
    copied = folder / "copy.bank"
    copied.write_bytes(path.with_suffix(".bank").read_bytes())
    return copied
