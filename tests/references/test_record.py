"""The record of references: in results, checkpoints and exported files, and back again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import openvino
import pytest
import torch
from PIL import Image
from support.commands import anomalib, metrics

from anomalib_nagl import Nagl
from anomalib_nagl.references.record import make_record, read_record, write_record
from anomalib_nagl.references.reference_set import load_references
from anomalib_nagl.references.sample import Sample

GABOR = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 128, "--model.visualizer", "false")
TARGET = ("--data", "ReferenceDataModule", "--data.target", "MVTecAD", "--data.target.root", "parts",
          "--data.target.category", "plug", "--data.target.num_workers", 0)  # fmt: skip
RUN = Path("results/Nagl/MVTecAD/plug")


@pytest.fixture
def parts(drawn: Path, folder: Path) -> Path:
    shutil.copytree(drawn / "plug", "parts/plug")
    return folder


def untrained_head() -> None:
    """A head with the right names; what it computes does not matter here."""
    model = Nagl("gabor", image_size=256)
    torch.save(model.model.head.state_dict(), "head.pth")


def test_giving_the_record_back_repeats_the_run(parts: Path) -> None:
    untrained_head()
    common = ("train", *GABOR, "--model.head", "head.pth", *TARGET)
    first = anomalib(*common, "--data.seed", 3, "--data.n_normal", 2, "--data.n_abnormal", 2)
    record = RUN / "v0/references.json"
    again = anomalib(*common, "--data.references", record)
    assert metrics(again) == metrics(first)
    assert [r["sha256"] for r in again.model.references] == [r["sha256"] for r in first.model.references]
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert json.loads((RUN / "v1/references.json").read_text()) == json.loads(record.read_text())
    found = json.loads(record.read_text())
    assert found["selection"]["seed"] == 3
    assert found["removed_from_evaluation"] == 2
    assert {entry["kind"] for entry in found["references"]} == {"normal", "abnormal"}
    assert all(not Path(entry["path"]).is_absolute() for entry in found["references"])


@pytest.mark.slow
def test_the_record_travels_with_checkpoint_and_exported_files(parts: Path) -> None:
    cli = anomalib("train", *GABOR, *TARGET, "--data.n_abnormal", 0)
    checkpoint = Path(cli.engine.trainer.checkpoint_callback.best_model_path)
    expected = torch.load(checkpoint, weights_only=True)["nagl"]["manifest"]
    assert expected["references"][0]["sha256"] == cli.model.references[0]["sha256"]
    for kind in ("openvino", "onnx"):
        anomalib("export", "--model", "Nagl", "--ckpt_path", checkpoint, "--export_type", kind, "--export_root", "out")
    info = openvino.Core().read_model("out/weights/openvino/model.xml").get_rt_info(["anomalib_nagl", "references"])
    assert json.loads(info.astype(str)) == expected
    properties = {entry.key: entry.value for entry in onnx.load("out/weights/onnx/model.onnx").metadata_props}
    assert json.loads(properties["anomalib_nagl.references"]) == expected
    anomalib("test", *GABOR, "--ckpt_path", checkpoint, *TARGET, "--default_root_dir", "tested")
    (again,) = Path("tested").rglob("references.json")
    assert json.loads(again.read_text())["references"] == expected["references"]


def change(path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    picture.putpixel((3, 3), (255, 0, 255) if picture.getpixel((3, 3)) != (255, 0, 255) else (0, 0, 0))
    picture.save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda: Path("refs/a.png").unlink(), "a.png is missing, not found in"),
        (lambda: change(Path("refs/a.png")), "refs/a.png has changed"),
        (lambda: Path("refs/m/b.png").unlink(), "mask m/b.png is missing"),
        (lambda: change(Path("refs/m/b.png")), "mask refs/m/b.png has changed"),
        (lambda: Path("run/references.json").write_text("{"), "no record of references"),
        (lambda: Path("run/references.json").write_text('{"format": "x", "references": [], "selection": {}}'),
         "of format 'x'"),
    ],
)  # fmt: skip
def test_changed_and_missing_files_are_named(
    drawn: Path, folder: Path, damage: Callable[[], object], message: str
) -> None:
    Path("refs/m").mkdir(parents=True)
    shutil.copy(drawn / "plug/train/good/000.png", "refs/a.png")
    shutil.copy(drawn / "plug/test/spot/000.png", "refs/b.png")
    shutil.copy(drawn / "plug/ground_truth/spot/000_mask.png", "refs/m/b.png")
    references = load_references([Sample("refs/a.png")], [Sample("refs/b.png", "refs/m/b.png", "spot")])
    path = write_record(make_record(references.records()), "run")
    assert read_record(path).files.normal == (Sample("refs/a.png"),)
    damage()
    with pytest.raises(ValueError, match=message):
        read_record(path)
