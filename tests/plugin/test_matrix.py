"""What anomalib's own generic tests ask of every model: each step by engine and by command, weights given or not."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import PredictDataset
from anomalib.deploy import ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.metrics import AUROC, Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from support.commands import anomalib, metrics
from support.small_part import as_written_on_gpu, part_data, quiet_engine, small_model, write_part
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_nagl import Nagl

SETTINGS = {"backbone": "gabor", "image_size": 96, "variant": "extended-proxies"}
MODEL = ("--model", "Nagl", *(part for name, value in SETTINGS.items() for part in (f"--model.{name}", value)))
KINDS = ("good", "square")  # folders of tested images


class Fitted(NamedTuple):
    """A fitted model, its checkpoint, the images' folder, what a test said of them, and scores of all tested images."""

    model: Nagl
    checkpoint: Path
    images: Path
    tested: dict[str, float]
    scores: dict[str, float]


def scores_of(predictions: Any) -> dict[str, float]:
    return {
        Path(path).relative_to(Path(path).parents[1]).as_posix(): float(score)
        for batch in predictions
        for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("matrix")
    images = write_part(folder / "data")
    model, engine = small_model(), quiet_engine(folder / "runs")
    engine.fit(model, datamodule=part_data(images))
    (tested,) = engine.test(model, datamodule=part_data(images))
    scores = scores_of(engine.predict(model, datamodule=part_data(images)))
    checkpoint = Path(engine.trainer.checkpoint_callback.best_model_path)
    assert 0 < len(scores) <= 6
    return Fitted(model, checkpoint, images, tested, scores)


@pytest.fixture(scope="module", params=["own machine", "machine with a GPU"])
def written(request: pytest.FixtureRequest, fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as it was written, and as it would have been written with a GPU."""
    if request.param == "own machine":
        return fitted.checkpoint
    return as_written_on_gpu(fitted.checkpoint, tmp_path_factory.mktemp("gpu") / "model.ckpt")


def test_saved_weights_by_engine(fitted: Fitted, written: Path, tmp_path: Path) -> None:
    """A fresh model in a fresh engine answers as the one that was fitted, with weights from anywhere."""
    engine, data = quiet_engine(tmp_path), part_data(fitted.images)
    (tested,) = engine.test(small_model(), datamodule=data, ckpt_path=written)
    assert tested == pytest.approx(fitted.tested, abs=1e-6)
    engine.validate(small_model(), datamodule=part_data(fitted.images), ckpt_path=written)
    found = scores_of(engine.predict(small_model(), datamodule=part_data(fitted.images), ckpt_path=written))
    assert found == pytest.approx(fitted.scores, abs=1e-6)
    path = next(iter(sorted((fitted.images / "part/test/square").iterdir())))
    (batch,) = engine.predict(small_model(), dataset=PredictDataset(path), ckpt_path=written)
    assert float(batch.pred_score[0]) == pytest.approx(fitted.model.predict(path).score, abs=1e-6)
    assert Nagl.load_from_checkpoint(written).eval().predict(path).score == pytest.approx(float(batch.pred_score[0]))
    exported = engine.export(small_model(), ExportType.TORCH, export_root=tmp_path, ckpt_path=written)
    assert exported.is_file()


def test_resuming_from_saved_weights(fitted: Fitted, written: Path, tmp_path: Path) -> None:
    model, engine = small_model(), quiet_engine(tmp_path, max_epochs=2)
    engine.fit(model, datamodule=part_data(fitted.images), ckpt_path=written)
    path = next((fitted.images / "part/test/square").iterdir())
    assert model.predict(path).raw_score == pytest.approx(fitted.model.predict(path).raw_score, abs=1e-6)


def test_everything_of_a_foreign_checkpoint_is_in_main_memory(tmp_path: Path) -> None:
    """Also what optimizers and callbacks saved."""
    from anomalib_nagl.plugin.checkpoint_io import NaglCheckpointIO

    content = {"state_dict": {}, "nagl": {}, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}]}
    torch.save(content, tmp_path / "own.ckpt")
    read = NaglCheckpointIO().load_checkpoint(as_written_on_gpu(tmp_path / "own.ckpt", tmp_path / "gpu.ckpt"))
    assert read["optimizer_states"][0]["state"][0]["exp_avg"].device.type == "cpu"


def test_by_command(fitted: Fitted, written: Path, folder: Path) -> None:
    data = ("--data", "MVTecAD", "--data.root", fitted.images, "--data.category", "part", "--data.num_workers", 0)
    weights = ("--ckpt_path", written)
    assert metrics(anomalib("test", *MODEL, *data, *weights)) == pytest.approx(fitted.tested, abs=1e-6)
    anomalib("validate", *MODEL, *data, *weights)
    anomalib("predict", *MODEL, "--data", fitted.images / "part/test", *weights)
    drawn = [path for path in folder.rglob("*.png") if path.parent.name in KINDS]
    assert len({(path.parent.name, path.name) for path in drawn}) == 6
    anomalib("export", *MODEL, "--export_type", "torch", *weights)
    assert len(list(folder.rglob("weights/torch/model.pt"))) == 1


def test_inferencers(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)
    engine, path = quiet_engine(tmp_path), next((fitted.images / "part/test/square").iterdir())
    files = {
        kind: engine.export(fitted.model, kind, export_root=tmp_path, datamodule=part_data(fitted.images))
        for kind in (ExportType.TORCH, ExportType.ONNX, ExportType.OPENVINO)
    }
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    asked: list[Any] = [TorchInferencer(files[ExportType.TORCH], "cpu")]
    asked += [OpenVINOInferencer(files[kind], "CPU", config=f32) for kind in (ExportType.ONNX, ExportType.OPENVINO)]
    expected = fitted.model.predict(path)
    for inferencer in asked:
        found = inferencer.predict(path)
        assert float(np.squeeze(found.pred_score)) == pytest.approx(expected.score, abs=1e-5)
        assert bool(np.squeeze(found.pred_label)) == expected.label
        assert np.squeeze(found.anomaly_map).shape == np.squeeze(found.pred_mask).shape == (96, 96)


def test_barebones(fitted: Fitted, tmp_path: Path) -> None:
    engine = quiet_engine(tmp_path, barebones=True)
    model = small_model(visualizer=False)
    engine.fit(model, datamodule=part_data(fitted.images))
    (found,) = engine.test(model, datamodule=part_data(fitted.images))
    assert found["image_AUROC"] == pytest.approx(fitted.tested["image_AUROC"], abs=1e-6)


def test_copies(fitted: Fitted) -> None:
    path = next((fitted.images / "part/test/square").iterdir())
    expected = fitted.model.predict(path)
    # Without its trainer, which Lightning cannot copy in every state.
    alone = Nagl.load_from_checkpoint(fitted.checkpoint).eval()
    for other in (copy.deepcopy(alone), pickle.loads(pickle.dumps(alone))):
        found = other.predict(path)
        assert found.score == pytest.approx(expected.score, abs=1e-6)
        assert found.nearest_reference == expected.nearest_reference
        other.post_processor.set_thresholds(image=0.9)
    assert alone.predict(path).label == expected.label  # shares nothing with its copies


STOCK = {
    "pre_processor": lambda: PreProcessor(
        transform=Compose([Resize((96, 96), antialias=True), Normalize([0.5] * 3, [0.5] * 3)])
    ),
    "post_processor": PostProcessor,
    "evaluator": lambda: Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")]),
    "visualizer": ImageVisualizer,
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_components(name: str, fitted: Fitted, tmp_path: Path) -> None:
    model = small_model(**{name: STOCK[name]()})
    engine, data = quiet_engine(tmp_path, callbacks=[ModelCheckpoint(filename="model")]), part_data(fitted.images)
    engine.fit(model, datamodule=data)
    (found,) = engine.test(model, datamodule=data)
    assert found["image_AUROC"] == pytest.approx(fitted.tested["image_AUROC"], abs=0.35)
    assert scores_of(engine.predict(model, datamodule=data)).keys() == fitted.scores.keys()
    drawn = {(path.parent.name, path.name) for path in tmp_path.rglob("*.png") if path.parent.name in KINDS}
    assert len(drawn) == len(fitted.scores)
