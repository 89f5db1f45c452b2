"""The everyday path: from a folder of pictures to a verdict for each, through the public command."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from PIL import Image
from support.commands import nagl
from support.exported import make_model, picture, pixels, reference_set
from support.parts import part, write

import anomalib_nagl
from anomalib_nagl import Nagl
from anomalib_nagl.commands import inspection
from anomalib_nagl.commands.inspect import load_scorer
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN, PredictionRow
from anomalib_nagl.plugin.inspection import TorchScorer

GOOD_NEW, BAD_NEW = ("a", "b"), ("c", "d")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a worker has it: references, new pictures, one of them broken, none of the sizes alike."""
    home = tmp_path_factory.mktemp("bench")
    for number in range(5):
        write(home / f"references/good/{number}.png", part(number)[0])
    for number in range(3):
        image, mask = part(10 + number, True)
        write(home / f"references/defects/hole {number}.png", image)
        write(home / f"references/masks/hole {number}.png", mask)
    for number, name in enumerate((*GOOD_NEW, *BAD_NEW)):
        write(home / f"new/{name}.png", part(20 + number, name in BAD_NEW)[0])
    (home / "new/broken.png").write_bytes((home / "new/a.png").read_bytes()[:100])
    return home


@pytest.fixture(scope="module")
def walked(bench: Path) -> Any:
    """The path walked once: status, output and table."""
    said, warned = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        patch.chdir(bench)
        status = nagl("inspect", "new", "--references", "references", "--json", "--review", 0)
    return status, said.getvalue().splitlines(), warned.getvalue(), rows(bench / "inspection")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_picture_has_a_line_a_row_and_a_picture(bench: Path, walked: Any) -> None:
    status, said, warned, table = walked
    names = ["new/a.png", "new/b.png", "new/broken.png", "new/c.png", "new/d.png"]
    assert status == 3  # one of them cannot be read
    assert [row["image"] for row in table] == names
    assert list(table[0]) == list(PredictionRow._fields)
    lines = [one for one in said if one.startswith("new/")]
    assert [one.partition(": ")[0] for one in lines] == names
    for one, row in zip(lines, table, strict=True):
        if row["error"]:
            assert one == f"{row['image']}: failed: {row['error']}"
        else:
            found = re.fullmatch(r"[^:]+: (good|defective|look again), score (\d\.\d{3}), nearest (.+) \((\w+)\)", one)
            assert found, one
            assert found[1] == row["verdict"]
            assert found[2] == f"{float(row['score']):.3f}"
            assert found[3] == Path(row["nearest_reference"]).name
            assert found[4] == row["nearest_type"]
            assert (bench / "references" / row["nearest_reference"]).is_file()
    assert said[-5].startswith("5 images: ")
    assert said[-5].endswith("1 failed")
    assert said[-4:-2] == ["Table: inspection/predictions.csv", "Pictures: inspection"]
    assert said[-2].startswith("A verdict is wrong? Put a false alarm into references/good, a miss into ")
    assert said[-1].endswith("anomalib-nagl train --config own_parts --data.references references")
    assert "1 of 5 images failed" in warned
    assert {path.stem for path in (bench / "inspection").glob("*.png")} == {*GOOD_NEW, *BAD_NEW}
    lines = (bench / "inspection/predictions.jsonl").read_text().splitlines()
    assert [json.loads(one)["verdict"] for one in lines] == [row["verdict"] for row in table]


@pytest.mark.slow
def test_defects_are_told_from_good_parts(bench: Path, walked: Any) -> None:
    """The square that is darker than all else is found, and where it is."""
    score = {Path(row["image"]).stem: float(row["score"]) for row in walked[3] if row["score"]}
    assert min(score[name] for name in BAD_NEW) > max(score[name] for name in GOOD_NEW)
    verdict = {Path(row["image"]).stem: row["verdict"] for row in walked[3]}
    assert {verdict[name] for name in BAD_NEW} == {DEFECTIVE}
    regions = json.loads(next(row["regions"] for row in walked[3] if row["image"] == "new/c.png"))
    mask = part(22, True)[1] > 0
    down, right = (int(np.flatnonzero(mask.any(axis=axis)).mean()) for axis in (1, 0))
    left, top, last, bottom = regions[0]["box"]
    assert left <= right < last
    assert top <= down < bottom
    assert regions == sorted(regions, key=lambda region: -region["peak"])


@pytest.mark.slow
def test_the_python_twin_says_the_same(bench: Path, walked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench)
    found = anomalib_nagl.inspect("new", references="references", review=0, out="twin")
    assert [(row.image, row.verdict, bool(row.error)) for row in found] == [
        (row["image"], row["verdict"], bool(row["error"])) for row in walked[3]
    ]
    assert [row["score"] for row in rows(bench / "twin")] == [row["score"] for row in walked[3]]
    image = part(22, True)[0]
    several = anomalib_nagl.inspect([image, "new/c.png"], references="references", review=0)
    assert several[0].image == "image 0"
    assert several[0].score == pytest.approx(several[1].score, abs=1e-6)


@pytest.mark.slow
def test_a_checkpoint_stands_in_for_references(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Nagl("gabor", image_size=96, variant="extended-proxies", visualizer=False)
    model.set_references(reference_set(2, 1))
    trainer = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)
    trainer.predict(model, dataset=PredictDataset(bench / "references/good"))
    capsys.readouterr()
    trainer.trainer.save_checkpoint(tmp_path / "model.ckpt")
    new, out = bench / "references/defects", tmp_path / "out"
    assert nagl("inspect", new, "--model", tmp_path / "model.ckpt", "--out", out) == 0
    for row in rows(out):
        assert float(row["score"]) == pytest.approx(model.predict(row["image"]).score, abs=1e-5)
    # A threshold of one's own, and an exit status that tells of it.
    command = ("inspect", new, "--model", tmp_path / "model.ckpt", "--out", out, "--exit-code", "--threshold")
    assert nagl(*command, -1) == 1
    assert {row["verdict"] for row in rows(out)} == {DEFECTIVE}
    assert nagl(*command, 2) == 0
    assert {row["verdict"] for row in rows(out)} == {GOOD}
    assert nagl(*command, 0.5, "--review", 1) == 1
    assert {row["verdict"] for row in rows(out)} == {LOOK_AGAIN}
    assert nagl(*command, -1, "--min-area", 1e6) == 0
    assert {row["verdict"] for row in rows(out)} == {GOOD}


@pytest.mark.slow
def test_anomalib_writes_the_same_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A prediction of anomalib's engine: the same rows, lines, and pictures."""
    (tmp_path / "new").mkdir()
    for number in range(3):
        Image.fromarray(pixels(picture((80 + number, 90), number, number == 1))).save(tmp_path / f"new/{number}.png")
    model = Nagl("gabor", image_size=96, variant="extended-proxies").eval()
    model.set_references(reference_set(2, 1))
    engine = Engine(default_root_dir=tmp_path / "out", accelerator="cpu", devices=1, logger=False)
    capsys.readouterr()
    engine.predict(model, dataset=PredictDataset(tmp_path / "new"))
    said = capsys.readouterr().out.splitlines()
    (table,) = (tmp_path / "out").rglob("predictions.csv")
    found = rows(table.parent)
    assert [Path(row["image"]).name for row in found] == ["0.png", "1.png", "2.png"]
    twin = anomalib_nagl.inspect(tmp_path / "new", references=reference_set(2, 1))
    assert list(found[0]) == list(PredictionRow._fields) == list(twin[0]._asdict())
    for row in found:
        assert float(row["score"]) == pytest.approx(model.predict(row["image"]).score, abs=1e-5)
        assert any(one.startswith(f"{row['image']}: {row['verdict']}, score ") for one in said)
    assert any(one.startswith("3 images: ") for one in said)
    assert f"Table: {table}" in said
    pictures = next(one.removeprefix("Pictures: ") for one in said if one.startswith("Pictures: "))
    assert len(list(Path(pictures).rglob("*.png"))) == 3


def test_an_export_is_inspected_by_the_box(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of an export will do, with the same answer as the box gives."""
    for number in range(3):
        write(tmp_path / f"new/{number}.png", pixels(picture((60, 50), number, number == 1)))
    common = (tmp_path / "new", "--review", 0, "--out")
    assert nagl("inspect", *common, tmp_path / "one", "--model", box.parent) == 0
    advice = capsys.readouterr().out.splitlines()[-1]
    assert f"edge add-defect {box} IMAGE" in advice  # which takes no folder
    assert nagl("edge", "predict", box, *common, tmp_path / "other") == 0
    first, other = rows(tmp_path / "one"), rows(tmp_path / "other")
    assert first == other
    assert {row["nearest_type"] for row in first} <= {"good", "defect"}
    assert all(row["nearest_reference"] for row in first)


def test_the_box_names_the_reference_that_torch_names(box: Path, edge_model: Any) -> None:
    edge_model.set_references(reference_set(1, 1))
    scorer = load_scorer(None, box)
    for seed in range(4):
        image = picture((120, 90), 30 + seed, seed % 2 == 1)
        expected = edge_model.predict(image).nearest_reference
        found = scorer(pixels(image)).nearest
        assert (found.kind, found.name) == (expected.kind, expected.name)
        assert found.similarity == pytest.approx(expected.similarity, abs=1e-4)


def test_wrong_calls_are_one_sentence(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(tmp_path / "a.png", pixels(picture((60, 50), 0)))
    (empty := tmp_path / "empty").mkdir()
    two = tmp_path / "two"
    shutil.copytree(box.parent, two)
    for file in list(two.iterdir()):
        shutil.copy(file, two / file.name.replace("model", "other", 1))
    for arguments, message in (
        ([image], "neither references nor a model, expected one of them: --references"),
        ([image, "--references", empty, "--model", box], "references and a model"),
        ([image, "--model", box, "--backbone", "gabor"], "--backbone beside --model"),
        ([image, "--model", empty], "found none in .*empty"),
        ([image, "--model", two], "found model.xml, other.xml in"),
        ([image, "--model", tmp_path / "no"], "found nothing at"),
        ([image, "--model", image], "found another file at"),
        ([tmp_path / "no.png", "--model", box], "found nothing at"),
        ([image, "--model", box, "--review", -1], "found --review -1.0, expected 0 or more"),
        ([image, "--model", box, "--out", image], "found a file at"),
        (["--model", box], "required: NEW"),
    ):
        assert nagl("inspect", *arguments, *(() if "--out" in arguments else ("--out", tmp_path / "out"))) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(f"anomalib-nagl inspect: .*{message}.*\n", error), error


def test_a_model_without_thresholds_gives_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No verdict, no region: one sentence says what to do."""
    model = make_model("gabor", (96, 96))
    for name in ("image", "pixel"):
        getattr(model.post_processor, f"_{name}_threshold").fill_(float("nan"))
    scorer = TorchScorer(model)
    assert (scorer.threshold, scorer.pixel_threshold) == (None, None)
    image = write(tmp_path / "a.png", pixels(picture((60, 50), 0)))
    options = argparse.Namespace(
        threshold=None, review=0.05, min_area=0, pixel_size=None, json=False, strict=False, exit_code=True
    )
    assert inspection.run("inspect", inspection.plan([image], tmp_path / "out"), scorer, options) == 0
    (row,) = rows(tmp_path / "out")
    assert (row["verdict"], row["threshold"], row["regions"]) == ("", "", "[]")
    assert row["score"]
    assert "no threshold, so there is no verdict" in capsys.readouterr().out
