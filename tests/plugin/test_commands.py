"""Commands on drawn images with the weight-free backbone: the quick start, other ways in, and what errors say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from anomalib.deploy import OpenVINOInferencer
from PIL import Image
from support.commands import CONFIGS, anomalib, metrics
from support.once import working_in

from anomalib_nagl import Nagl, NaglEdge, NaglHead

QUICKSTART = ("--config", CONFIGS / "quickstart.yaml", "--model.backbone", "gabor")
QUICK = ("--model.epochs", 2, "--data.episodes", 16, "--model.visualizer", "false")
QUICKER = (*QUICK, "--model.epochs", 1, "--data.episodes", 8, "--model.image_size", 128)  # where any head will do
CHECKPOINT = Path("results/Nagl/DrawnPictures/plate/v0/weights/lightning/model.ckpt")


@pytest.fixture(scope="module")
def head(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A head trained by the quick start; the tests of this module run in its folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "datasets").mkdir()
    (folder / "datasets/drawn").symlink_to(drawn, target_is_directory=True)
    with working_in(folder):
        found = metrics(anomalib("train", *QUICKSTART, *QUICK))
        assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"} <= set(found)
        yield folder / CHECKPOINT


def adapt(head: Path, category: str, *arguments: object) -> dict[str, float]:
    common = ("--model.head", head, "--model.visualizer", "false", "--data.target.category", category)
    return metrics(anomalib("train", *QUICKSTART, *common, *arguments))


@pytest.mark.slow
def test_quickstart_adapts_exports_and_predicts(head: Path) -> None:
    assert "pixel_AUROC" in adapt(head, "plug")
    checkpoint = Path("results/Nagl/DrawnPictures/plug/v0/weights/lightning/model.ckpt")
    anomalib("export", "--model", "Nagl", "--ckpt_path", checkpoint, "--export_type", "openvino", "--export_root", "ov")
    inferencer = OpenVINOInferencer("ov/weights/openvino/model.xml", "CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).random((210, 300, 3), dtype=np.float32)
    with torch.inference_mode():
        expected = Nagl.load_from_checkpoint(checkpoint).eval()(torch.from_numpy(image).permute(2, 0, 1)[None])
    found = inferencer.predict(image)
    assert float(np.squeeze(found.pred_score)) == pytest.approx(float(expected.pred_score), abs=1e-4)
    assert np.allclose(found.anomaly_map.squeeze(), expected.anomaly_map.squeeze(), atol=1e-4)


@pytest.mark.slow
def test_an_export_takes_region_and_threshold_beside_a_checkpoint_and_names_the_rest(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapt(head, "plug")
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    checkpoint = Path("results/Nagl/DrawnPictures/plug/latest/weights/lightning/model.ckpt")
    words = ["export", "--model", "Nagl", "--ckpt_path", str(checkpoint), "--export_type", "openvino"]
    given = ["--model.region", str(tmp_path / "left.png"), "--model.threshold=0.6", "--model.bank_limit", "99"]
    for more in ([], given):
        command = [*words, "--export_root", str(tmp_path / f"ov{len(more)}"), *more]
        monkeypatch.setattr("sys.argv", ["anomalib", *command])
        anomalib(*command)
        assert ("--model.bank_limit beside a checkpoint" in caplog.text) == bool(more)
    assert "--model.region" not in caplog.text.partition(" beside a checkpoint")[0]
    plain, told = (NaglEdge(tmp_path / f"ov{number}/weights/openvino/model.xml") for number in (0, len(given)))
    assert plain.region is None
    assert told.region[:, : told.region.shape[1] // 2].all()
    assert not told.region[:, told.region.shape[1] // 2 :].any()
    assert (plain.thresholds.image, told.thresholds.image) == (0.5, pytest.approx(0.6))
    wanted = Nagl.load_from_checkpoint(checkpoint, region=str(tmp_path / "left.png")).eval()
    image = np.random.default_rng(0).random((210, 300, 3), dtype=np.float32)
    with torch.inference_mode():
        expected = wanted(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert told.predict(image).score == pytest.approx(float(expected.pred_score), abs=1e-4)


def test_normal_only_needs_no_head_and_no_source(head: Path) -> None:
    assert metrics(anomalib("train", *QUICKSTART, "--data.n_abnormal", 0, *QUICK))["pixel_AUROC"] > 0.6


def test_comparing_patches_needs_no_head_and_no_source(head: Path) -> None:
    cli = anomalib(
        "train", "--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 256, "--model.variant",
        "extended-proxies", "--model.visualizer", "false", "--data", "MVTecAD", "--data.root", "datasets/drawn",
        "--data.category", "plug", "--data.num_workers", 0,
    )  # fmt: skip
    assert [record["kind"] for record in cli.model.references] == ["normal", "abnormal"]
    assert metrics(cli)["pixel_AUROC"] > 0.6
    saved = Path("results/Nagl/MVTecAD/plug/latest/weights/lightning/model.ckpt")
    again = Nagl.load_from_checkpoint(saved)
    assert torch.equal(again.model.defect_bank, cli.model.model.defect_bank)
    assert len(again.model.defect_bank)


def test_references_of_a_checkpoint_are_not_scored_wherever_they_lie(head: Path, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "plate", tmp_path / "moved/plate")
    cli = anomalib(
        "test", "--model", "Nagl", "--ckpt_path", head, "--model.visualizer", "false",
        "--data", "MVTecAD", "--data.root", tmp_path / "moved", "--data.category", "plate", "--data.num_workers", 0,
    )  # fmt: skip
    assert len(cli.datamodule.test_data) == 40 - 1


def test_the_configuration_for_own_parts(head: Path, drawn: Path) -> None:
    for source, place in (("train/good", "good"), ("test/spot", "defects")):
        shutil.copytree(drawn / "plug" / source, Path("my_part") / place)
    Path("my_part/masks").mkdir()
    for mask in (drawn / "plug/ground_truth/spot").iterdir():
        shutil.copy(mask, Path("my_part/masks") / mask.name.replace("_mask", ""))
    gabor = (
        "--model.backbone",
        "gabor",
        "--model.image_size",
        256,
        "--model.head",
        head,
        "--model.visualizer",
        "false",
    )
    cli = anomalib("train", "--config", CONFIGS / "own_parts.yaml", *gabor, "--data.num_workers", 0)
    images = [path for place in ("good", "defects") for path in (Path("my_part") / place).iterdir()]
    assert sorted(record["name"] for record in cli.model.references) == sorted(map(str, images))
    assert Path("results/Nagl/my_part/latest/weights/lightning/model.ckpt").exists()


def test_a_checkpoint_with_any_number_of_heads_is_rebuilt(head: Path) -> None:
    cli = anomalib("train", *QUICKSTART, *QUICKER, "--model.num_heads", 7, "--model.num_proxies", 3)
    path = Path(cli.engine.trainer.checkpoint_callback.best_model_path)
    assert Nagl.load_from_checkpoint(path).model.head.num_heads == 7


def test_one_normal_reference_is_the_same_with_and_without_a_defect(head: Path) -> None:
    chosen = []
    for abnormal in (0, 1):
        cli = anomalib("train", *QUICKSTART, "--model.head", head, "--model.visualizer", "false",
                       "--data.n_abnormal", abnormal)  # fmt: skip
        chosen.append(cli.model.references[0])
    assert chosen[0] == chosen[1]


def test_testing_with_another_seed_leaves_out_the_references_of_the_checkpoint(head: Path) -> None:
    data = anomalib("test", *QUICKSTART, "--ckpt_path", head, "--data.seed", 5, "--model.visualizer", "false")
    saved = {record["name"] for record in data.model.references}
    assert not saved & set(data.datamodule.test_data.samples.image_path)
    assert len(data.datamodule.test_data) == 39


def test_abnormal_only(head: Path) -> None:
    assert "pixel_AUROC" in adapt(head, "plug", "--data.n_normal", 0)


@pytest.mark.parametrize("shots", [("--model.n_abnormal", 0), ("--model.n_abnormal", 2, "--model.n_normal", 3)])
def test_a_plain_datamodule_holds_references_out(head: Path, shots: tuple[object, ...]) -> None:
    cli = anomalib(
        "train", "--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 256, "--model.head", head,
        "--model.visualizer", "false", *shots, "--data", "MVTecAD", "--data.root", "datasets/drawn",
        "--data.category", "plug", "--data.num_workers", 0,
    )  # fmt: skip
    abnormal = shots[1]
    records = cli.model.references
    assert [record["kind"] for record in records].count("abnormal") == abnormal
    assert len(cli.datamodule.test_data) == 40 - abnormal
    assert not {record["name"] for record in records} & set(cli.datamodule.test_data.samples.image_path)


def test_several_sources_from_yaml(head: Path) -> None:
    config = yaml.safe_load(QUICKSTART[1].read_text())
    arguments = config["data"]["init_args"]
    arguments["source"] = [
        {"class_path": "DrawnPictures", "init_args": {"root": "datasets/drawn", "category": "cloth"}},
        {"class_path": "MVTecAD", "init_args": {"root": "datasets/drawn", "category": "board", "num_workers": 0}},
    ]
    del arguments["source_categories"]
    Path("several.yaml").write_text(yaml.safe_dump(config))
    cli = anomalib("train", "--config", "several.yaml", *QUICKER)
    assert [pool.name for pool in cli.datamodule.episode_datasets()[0].pools] == [
        "DrawnPictures cloth",
        "MVTecAD board",
    ]


def test_non_square_input_and_image_batches_of_any_size(head: Path) -> None:
    cli = anomalib("train", *QUICKSTART, *QUICKER, "--model.image_size", "[192,256]", "--model.variant", "paper")
    model = cli.model.eval()
    images = torch.rand(4, 3, 100, 333)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]).pred_score for image in images])
    assert together.anomaly_map.shape == (4, 1, 192, 256)
    assert torch.allclose(together.pred_score, alone, atol=1e-5)


def test_other_models_train_on_normal_pictures(head: Path) -> None:
    cli = anomalib(
        "train", "--model", "Padim", "--model.pre_trained", "false", "--model.visualizer", "false",
        "--model.layers", "[layer2]", "--model.n_features", 30,
        "--data", "ReferenceDataModule", "--data.target", "MVTecAD", "--data.target.root", "datasets/drawn",
        "--data.target.category", "plug", "--data.target.num_workers", 0, "--data.n_abnormal", 2,
        "--data.source", "DrawnPictures", "--data.source.root", "datasets/drawn",
    )  # fmt: skip
    assert metrics(cli)["pixel_AUROC"] > 0.5
    labels = [label for batch in cli.datamodule.train_dataloader() for label in batch.gt_label.tolist()]
    assert labels == [0] * 20
    assert len(cli.datamodule.test_data) == 38


def garbage(head: Path) -> str:
    Path("garbage.ckpt").write_bytes(b"not a checkpoint")
    return "garbage.ckpt"


def bare_head(head: Path) -> str:
    torch.save(NaglHead(56).state_dict(), "bare.pth")
    return "bare.pth"


def wide_head(head: Path) -> str:
    torch.save({f"module.{k}": v for k, v in NaglHead(384).state_dict().items()}, "wide.pth")
    return "wide.pth"


TEST = ("test", *QUICKSTART, "--model.visualizer", "false")
TRAIN = ("train", *QUICKSTART, *QUICK)
GABOR = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 256)
ONNX = ("export", "--model", "Nagl", "--export_type", "onnx")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda head: (*TEST,), "found no references.*anomalib train"),
        (lambda head: (*TEST, "--ckpt_path", garbage(head)), "not a checkpoint of plain tensors: .*garbage.ckpt"),
        (lambda head: (*TEST, "--ckpt_path", bare_head(head)), "not a checkpoint of Nagl.*--model.head"),
        (lambda head: (*TRAIN, "--model.head", garbage(head)), "not a checkpoint of plain tensors"),
        (lambda head: (*TRAIN, "--model.head", wide_head(head)), r"\(25, 384\) instead of \(25, 56\)"),
        (lambda head: (*TRAIN, "--model.head", head, "--model.num_proxies", 9), "num_proxies=25 instead of 9"),
        (lambda head: (*TRAIN, "--model.backbone", "gabbor"), "gabbor"),
        (lambda head: (*TRAIN, "--model.image_size", 250), "240.*256"),
        (lambda head: (*TRAIN, "--data.source", "null", "--model.variant", "extended"), "no source to train it on"),
        (lambda head: (*TRAIN, "--data.target.category", "cloth"), "images of the target DrawnPictures cloth among"),
        (
            lambda head: ("train", *GABOR, "--model.variant", "extended", "--data", "MVTecAD", "--data.root",
                          "datasets/drawn", "--data.category", "plug"),
            "untrained head and only MVTecAD plug",
        ),
        (lambda head: (*ONNX, "--ckpt_path", garbage(head)), "not a checkpoint of plain tensors"),
        (lambda head: (*ONNX, "--ckpt_path", "no.ckpt"), "no file at"),
    ],
)  # fmt: skip
def test_bad_input_says_what_to_do(head: Path, command: Callable[[Path], tuple[object, ...]], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=f"(?s){message}"):
        anomalib(*command(head))


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch"])
def test_export_before_references_writes_nothing(folder: Path, kind: str) -> None:
    with pytest.raises(RuntimeError, match="without references"):
        anomalib("export", *GABOR, "--export_type", kind, "--export_root", "out")
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_failed_export_leaves_nothing_half_written(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_text("half")  # args: the model, the file
        raise OSError("no space left")

    monkeypatch.setattr("openvino.save_model", fail)
    with pytest.raises(OSError, match="no space left"):
        anomalib(
            "export", "--model", "Nagl", "--ckpt_path", head, "--export_type", "openvino", "--export_root", "failed"
        )
    assert [path for path in Path("failed").rglob("*") if path.is_file()] == []


def test_a_misspelled_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        anomalib("train", *QUICKSTART, "--model.n_abnormals", 2)
    assert "n_abnormals" in capsys.readouterr().err


def test_pictures_that_are_no_images_are_named(head: Path) -> None:
    Path("broken").mkdir()
    Path("broken/a.png").write_text("no")
    with pytest.raises(Exception, match=r"a\.png"):
        anomalib("predict", "--model", "Nagl", "--ckpt_path", head, "--data", "broken")
