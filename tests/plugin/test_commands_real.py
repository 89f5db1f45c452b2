"""The commands that users type, on real images, with the configs that users run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from support.commands import CONFIGS, anomalib, metrics
from support.once import working_in
from support.real_images import PER_TYPE

from anomalib_nagl import Nagl, NaglEdge

pytestmark = pytest.mark.slow  # the head that all tests use is trained on real images

CONFIG = CONFIGS / "real_small"
QUICK = ("--model.epochs", 1, "--data.episodes", 16)
SMALL = ("--model.image_size", 256)
RESULTS = Path("results/Nagl/MVTecAD")
TESTED = PER_TYPE * (1 + 5) - 1  # magnetic tiles: good ones and five types of defect, without the abnormal reference
METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}


@pytest.fixture(scope="module")
def checkpoint(real_folder: Path) -> Path:
    """A head trained on boards and pavement, with references of magnetic tiles."""
    with working_in(real_folder):
        found = metrics(anomalib("train", "--config", CONFIG / "train.yaml", *QUICK, *SMALL))
    assert set(found) >= METRICS
    assert found["pixel_AUROC"] > 0.5
    weights = real_folder / RESULTS / "magnetic_tile/v0/weights/lightning/model.ckpt"
    pictures = list((real_folder / RESULTS / "magnetic_tile/v0/images").rglob("*.png"))
    assert len(pictures) == TESTED  # every test image but the abnormal reference
    widths, heights = zip(*(Image.open(picture).size for picture in pictures), strict=True)
    assert min(heights) > 420  # a header above
    assert min(widths) > 3 * 420  # image, known defect, map and references side by side, the narrowest parts too
    assert max(widths) > 5 * 420  # and what was found
    return weights


@pytest.fixture(scope="module")
def exported(checkpoint: Path, real_folder: Path) -> Path:
    root = real_folder / "ov"
    anomalib("export", "--model", "Nagl", "--ckpt_path", checkpoint, "--export_type", "openvino", "--export_root", root)
    return root / "weights/openvino/model.xml"


@pytest.fixture(autouse=True)
def inside(real_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type commands where images, weights and results of earlier commands are."""
    monkeypatch.chdir(real_folder)


def test_checkpoint_holds_plain_data_and_the_choice(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["nagl"]["head_trained"]
    kinds = [(record["kind"], record["defect_type"]) for record in saved["nagl"]["references"]]
    assert [kind for kind, _ in kinds] == ["normal", "abnormal"]
    assert kinds[1][1] in {"blowhole", "break", "crack", "fray", "uneven"}
    assert all(len(record["sha256"]) == 64 for record in saved["nagl"]["references"])


def test_a_checkpoint_needs_no_other_file(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the folder of the backbone was named relative to another place
    model = Nagl.load_from_checkpoint(checkpoint).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 3, 50, 60)).anomaly_map.shape == (2, 1, 256, 256)


def test_adapting_trains_nothing(checkpoint: Path) -> None:
    cli = anomalib("train", "--config", CONFIG / "adapt.yaml", *SMALL)
    assert set(metrics(cli)) >= METRICS
    trained, adapted = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (checkpoint, RESULTS / "pcb_group_92000/v0/weights/lightning/model.ckpt")
    )
    for name, value in trained.items():
        if name.startswith("model.head."):
            assert torch.equal(value, adapted[name]), name
    assert not torch.equal(trained["model.residual_proxies"], adapted["model.residual_proxies"])


def test_testing_a_checkpoint_repeats_the_training_run(checkpoint: Path) -> None:
    data = ("--data.target.root", "datasets/real_small", "--data.target.category", "magnetic_tile")
    cli = anomalib(
        "test", "--model", "Nagl", "--model.visualizer", "false", "--ckpt_path", checkpoint,
        "--data", "ReferenceDataModule", "--data.target", "MVTecAD", *data, "--data.target.num_workers", 0,
    )  # fmt: skip
    after = metrics(cli)
    assert len(cli.datamodule.test_data) == TESTED
    # The same numbers as a run with the constructor's arguments repeated.
    quiet = ("--model.visualizer", "false")
    again = anomalib("test", "--config", CONFIG / "train.yaml", *SMALL, *quiet, "--ckpt_path", checkpoint)
    assert metrics(again) == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("data", ["crack/003.png", "fray"])
def test_predicting_from_a_checkpoint_alone(checkpoint: Path, data: str) -> None:
    path = Path("datasets/real_small/magnetic_tile/test") / data
    cli = anomalib(
        "predict", "--model", "Nagl", "--ckpt_path", checkpoint, "--data", path, "--default_root_dir", "predicted"
    )
    count = PER_TYPE if path.is_dir() else 1
    written = list(Path(cli.engine.trainer.default_root_dir).rglob(f"images/**/{path.stem if count == 1 else '*'}.png"))
    assert len(written) >= count
    assert np.array(Image.open(written[0])).std() > 10


def test_openvino_gives_the_same_answer(checkpoint: Path, exported: Path) -> None:
    model = Nagl.load_from_checkpoint(checkpoint).eval()
    inferencer = OpenVINOInferencer(exported, "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    paths = sorted(Path("datasets/real_small/magnetic_tile/test").glob("*/00[0-1].png"))
    images = [torch.as_tensor(read_image(path, as_tensor=True)).as_subclass(torch.Tensor) for path in paths]
    noise = torch.Generator().manual_seed(0)
    for size in ((900, 1200), (1500, 700)):  # larger than the input and not square
        large = F.interpolate(images[0][None], size, mode="bicubic")[0]
        images.append((large + 0.1 * torch.randn(3, *size, generator=noise)).clamp(0, 1))
    assert len(images) >= 14 - 2
    scores = []
    for image in images:
        with torch.inference_mode():
            expected = model(image[None])
        found = inferencer.predict(image.permute(1, 2, 0).numpy())
        assert np.allclose(found.anomaly_map.squeeze(), expected.anomaly_map.squeeze(), atol=1e-3)
        assert bool(np.squeeze(found.pred_label)) == bool(expected.pred_label)
        scores.append((float(expected.pred_score), float(np.squeeze(found.pred_score))))
    torch_scores, openvino_scores = np.array(scores).T
    assert np.ptp(torch_scores) > 0.05
    assert np.abs(torch_scores - openvino_scores).max() <= 0.005 * np.ptp(torch_scores)


def test_onnx_is_one_file_with_the_same_answer(checkpoint: Path) -> None:
    anomalib("export", "--model", "Nagl", "--ckpt_path", checkpoint, "--export_type", "onnx", "--export_root", "onnx")
    assert [path.name for path in Path("onnx").rglob("*") if path.is_file()] == ["model.onnx"]
    inferencer = OpenVINOInferencer("onnx/weights/onnx/model.onnx", "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    image = read_image("datasets/real_small/magnetic_tile/test/crack/000.png", as_tensor=True)
    with torch.inference_mode():
        expected = Nagl.load_from_checkpoint(checkpoint).eval()(image[None].as_subclass(torch.Tensor))
    found = inferencer.predict(image.permute(1, 2, 0).numpy())
    assert float(np.squeeze(found.pred_score)) == pytest.approx(float(expected.pred_score), abs=1e-3)


@pytest.mark.parametrize("kind", ["INT8", "INT8_PTQ"])
def test_compressed_exports_by_command(checkpoint: Path, kind: str) -> None:
    """Quantised with the images of a datamodule; the box takes such a file like any other."""
    data = ("--data", "MVTecAD", "--data.root", "datasets/real_small", "--data.category", "pcb_group_92000")
    quiet = ("--data.num_workers", 0, "--data.eval_batch_size", 4)
    anomalib(
        "export", "--model", "Nagl", "--ckpt_path", checkpoint, "--export_type", "openvino", "--export_root", kind,
        "--compression_type", kind, *data, *quiet,
    )  # fmt: skip
    detector = NaglEdge(f"{kind}/weights/openvino/model.xml")
    path = Path("datasets/real_small/magnetic_tile/test/crack/000.png")
    with torch.inference_mode():
        expected = Nagl.load_from_checkpoint(checkpoint).eval()(read_image(path, as_tensor=True)[None])
    found = detector.predict(path)
    assert abs(found.score - float(expected.pred_score)) < 0.5
    assert np.abs(found.map - expected.anomaly_map.squeeze().numpy()).mean() < 0.1


def test_benchmark_writes_its_table(checkpoint: Path, real_folder: Path) -> None:
    text = (CONFIG / "benchmark.yaml").read_text().replace("image_size: 384", "image_size: 256")
    Path("benchmark.yaml").write_text(text)
    anomalib("benchmark", "--config", "benchmark.yaml")
    (table,) = real_folder.rglob("runs/benchmark/*/results.csv")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 2
    assert {row["data.init_args.target.init_args.category"] for row in rows} == {"pcb_group_92000", "pcb_group_00041"}
    assert all(0.5 < float(row["pixel_AUROC"]) <= 1 for row in rows)
