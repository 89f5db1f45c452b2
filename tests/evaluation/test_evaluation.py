"""anomalib-nagl evaluate: the same numbers as the engine, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from anomalib.data.utils import LabelName
from lightning.pytorch.callbacks import Callback
from support.commands import CONFIGS, anomalib_nagl

from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import load_category, open_category
from anomalib_nagl.evaluation.grid import TrainingJob
from anomalib_nagl.evaluation.heads import head_path, train_head
from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.evaluation.results import cell_path
from anomalib_nagl.evaluation.scorer import Scorer
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.checkpoints import read_head
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.references.images import load_image

QUICK = (
    "evaluate", "--config", str(CONFIGS / "evaluate" / "quickstart.yaml"),
    "--domains", "{textures: [cloth], parts: [plate]}", "--targets", "[plate]", "--shots", "[1+0, 1+1]",
    "--reference_seeds", "3", "--protocols", "[fixed, unseen]", "--epochs", "1", "--episodes", "16",
    "--metric_size", "null", "--backbone", "gabor",
)  # fmt: skip
HEAD = "heads/nagl_other-domains_parts_0.ckpt"


def rows_of(out: Path) -> list[dict[str, str]]:
    """Rows of a finished evaluation without their time."""
    rows = list(csv.DictReader((out / "results.csv").open()))
    for row in rows:
        row.pop("seconds")
    return rows


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small evaluation, run to its end; its settings are `evaluated`."""
    out = tmp_path_factory.mktemp("finished")
    assert anomalib_nagl(*QUICK, "--data", drawn, "--out", out) == 0
    return out


def settings_of(drawn: Path, out: Path, **changes: Any) -> Settings:
    common: dict[str, Any] = {
        "data": str(drawn), "format": "DrawnPictures", "domains": {"textures": ["cloth"], "parts": ["plate"]},
        "targets": ["plate"], "shots": ["1+0", "1+1"], "reference_seeds": 3, "backbone": "gabor", "image_size": 128,
        "out": str(out),
    }  # fmt: skip
    return Settings(**{**common, **changes})


def test_every_cell_has_a_row_scores_and_a_place_in_the_tables(finished: Path) -> None:
    rows = rows_of(finished)
    done = [row for row in rows if row["status"] == "done"]
    # 3 models, 3 seeds, 2 protocols; PaDiM takes no gabor features, which is said once.
    assert len(done) == 18
    assert [(row["model"], row["category"], row["reason"] != "") for row in rows if row["status"] == "not run"] == [
        ("padim", "plate", True)
    ]
    for row in done:
        assert all(0 <= float(row[metric]) <= 1 for metric in METRICS)
        cell = Cell(
            **{name: type(default)(row[name]) for name, default in vars(Cell("", "", "", 0, 0, 0, 0, "")).items()}
        )
        assert json.loads(cell_path(finished, cell).read_bytes())["AUPRO"] == float(row["AUPRO"])
        with np.load(finished / "scores" / f"{cell.key}.npz") as found:
            assert len(found["names"]) == len(found["types"]) == len(found["scores"]) == int(row["queries"])
            shown = cell.protocol == "fixed" and cell.reference_seed == 0
            assert ("maps" in found) == shown
            if shown:
                assert found["maps"].shape == (int(row["queries"]), 48, 48)
                assert found["maps"].dtype == np.float16
    assert "normal_only" in (finished / "tables.md").read_text(encoding="utf-8")


def test_a_head_scores_as_it_does_under_anomalibs_engine(finished: Path, drawn: Path, tmp_path: Path) -> None:
    from anomalib.data import DrawnPictures
    from anomalib.engine import Engine
    from anomalib.metrics import AUROC, Evaluator

    from anomalib_nagl import Nagl, ReferenceDataModule

    category = load_category(settings_of(drawn, finished), "plate")
    draw = protocols.fixed(category, 1, 1, 0, (1, 1))
    for sample, place in ((draw.normal[0], "normal"), (draw.abnormal[0], f"abnormal/{draw.abnormal[0].defect_type}")):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(sample.image, tmp_path / place / "one.png")
    (tmp_path / "masks" / draw.abnormal[0].defect_type).mkdir(parents=True)
    shutil.copy(draw.abnormal[0].mask, tmp_path / "masks" / draw.abnormal[0].defect_type / "one.png")

    evaluator = Evaluator(
        test_metrics=[
            AUROC(["pred_score", "gt_label"], prefix="image_"),
            AUROC(["anomaly_map", "gt_mask"], prefix="pixel_"),
        ]
    )
    model = Nagl(
        "gabor", image_size=128, head=str(finished / HEAD), post_processor=False, evaluator=evaluator, visualizer=False
    )
    target = DrawnPictures(drawn, "plate")
    data = ReferenceDataModule(target, references=str(tmp_path), num_workers=0)
    engine = Engine(default_root_dir=tmp_path / "results", logger=False, enable_progress_bar=False)
    metrics = engine.test(model=model, datamodule=data)[0]
    cell = Cell("nagl", "plate", "parts", 1, 1, 0, 0, "fixed")
    row = json.loads(cell_path(finished, cell).read_bytes())
    for name in ("image_AUROC", "pixel_AUROC"):
        assert row[name] == pytest.approx(metrics[name], abs=1e-4)
    with np.load(finished / "scores" / f"{cell.key}.npz") as found:
        scores = dict(zip(found["names"].tolist(), found["scores"].tolist(), strict=True))
    predicted = {
        Path(path).relative_to(drawn).as_posix(): float(score)
        for batch in engine.predict(model=model, datamodule=data)
        for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }
    assert predicted == pytest.approx(scores, abs=1e-5)


def test_the_naive_rule_is_what_it_says(drawn: Path, finished: Path) -> None:
    scorer = Scorer(settings_of(drawn, finished))
    category = scorer.category("plate")
    draw = protocols.fixed(category, 2, 2, 0, (2, 2))._replace(queries=category.good[:2] + category.defects[:2])
    model = scorer.model("naive")
    scored = scorer.score(model, category, draw)
    images = torch.stack([model.pre_processor.transform(load_image(sample.image)) for sample in draw.queries])
    references = scorer.reference_tokens(model, category, draw)
    defects, normal = references.abnormal[references.patch_mask > 0].double(), references.normal.flatten(0, 1).double()
    assert 0 < len(defects) < references.patch_mask.numel()
    for i, query in enumerate(model.model.encode(images).double()):
        near = [
            (1 + torch.nn.functional.cosine_similarity(query[:, None], bank[None], dim=-1).max(1).values) / 2
            for bank in (defects, normal)
        ]
        patch = (near[0] + 1 - near[1]) / 2
        top = patch.topk(max(int(0.01 * len(patch)), 1)).values.mean()
        assert float(scored.scores[i]) == pytest.approx(float(top), abs=1e-5)
    assert [name.split("/")[0] for name in scored.names] == ["plate"] * 4
    assert scored.maps.shape == scored.masks.shape == (4, 128, 128)
    assert [bool(mask.any()) for mask in scored.masks] == [False, False, True, True]
    normal_only = scorer.score(scorer.model("normal_only"), category, draw._replace(abnormal=()))
    assert not torch.allclose(normal_only.scores, scored.scores)


def test_masks_and_fusion_of_a_head_are_those_of_its_settings(drawn: Path, finished: Path) -> None:
    patches = {"variant": "extended-proxies"}
    heads = {"given": patches, "guessed": {**patches, "masks": "guessed"}, "whole": {**patches, "masks": "whole"},
             "weighted": {"trained_as": "nagl", "fusion": [1e-9, 0.0]}, "nagl": {}}  # fmt: skip
    scorer = Scorer(settings_of(drawn, finished, heads=heads, models=list(heads)))
    category = scorer.category("plate")
    draw = protocols.fixed(category, 2, 2, 0, (2, 2))._replace(queries=category.defects[:4])
    masks = {"given": 0, "guessed": 0, "whole": 0}
    for name in masks:
        tokens = scorer.reference_tokens(scorer.model(name), category, draw, name)
        assert tokens.localized.tolist() == [name == "given"] * 2
        masks[name] = int(tokens.patch_mask.sum())
    assert 0 < masks["given"] < masks["whole"] == tokens.patch_mask.numel()
    assert 0 < masks["guessed"] < masks["whole"]
    normal_only = scorer.score(scorer.model("normal_only"), category, draw._replace(abnormal=()))
    weightless = scorer.score(scorer.model("weighted", finished / HEAD), category, draw)
    # Without weight on the defects this is 1 - similarity to the normal bank, with the surroundings of the defects.
    assert (weightless.scores <= normal_only.scores + 1e-6).all()


def test_synthetic_references_are_those_of_a_folder(drawn: Path, finished: Path) -> None:
    from anomalib_nagl.references.sampling import SupportSet
    from anomalib_nagl.references.synthetic import with_synthetic

    scorer = Scorer(settings_of(drawn, finished))
    category, model = scorer.category("plate"), scorer.model("nagl", finished / HEAD)
    draw = protocols.fixed(category, 2, 0, 0, (2, 1))._replace(queries=category.defects[:4])
    scored = scorer.score(model, category, draw, synthetic=("cut_paste", 2, 0))
    model.head_trained = True
    model.set_references(with_synthetic(SupportSet(draw.normal).load(), 2, "cut_paste", 0))
    images = torch.stack([model.pre_processor.transform(load_image(sample.image)) for sample in draw.queries])
    torch.testing.assert_close(scored.scores, model.model(images).pred_score, rtol=1e-4, atol=1e-5)


def finished_cells(out: Path) -> dict[str, int]:
    """Names of the finished cells' files, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


def start(command: tuple[str, ...], out: Path) -> subprocess.Popen[bytes]:
    """Start an evaluation with two processes, and wait for its first cell."""
    running = subprocess.Popen(
        [sys.executable, "-m", "anomalib_nagl.cli", *command, "--processes", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not finished_cells(out):
        assert running.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    return running


@pytest.mark.slow
def test_after_a_kill_it_goes_on_with_what_is_left(finished: Path, drawn: Path, tmp_path: Path) -> None:
    for folder in ("heads", "tokens"):  # to save time; training goes on by the same means as `anomalib train`
        shutil.copytree(finished / folder, tmp_path / folder)
    command = (*QUICK, "--data", str(drawn), "--out", str(tmp_path))
    running = start(command, tmp_path)
    children = psutil.Process(running.pid).children(recursive=True)
    helpers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    running.kill()
    running.wait()
    assert len(helpers) == 2
    assert psutil.wait_procs(helpers, timeout=20)[1] == []  # the helpers of a killed run end by themselves
    before, trained = finished_cells(tmp_path), (tmp_path / HEAD).stat().st_mtime_ns
    assert 1 <= len(before) < 18
    (tmp_path / "cells" / f".{next(iter(before))}-torn").write_text("{")  # of a kill at the worst moment
    assert anomalib_nagl(*command) == 0
    after = finished_cells(tmp_path)
    assert len(after) == 18
    assert before.items() <= after.items()
    for found, expected in zip(rows_of(tmp_path), rows_of(finished), strict=True):
        numbers = [[float(row.pop(name) or "nan") for name in METRICS] for row in (found, expected)]
        assert found == expected
        # Helpers compute with one thread each: sums in another order.
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-3, nan_ok=True)
    assert (tmp_path / HEAD).stat().st_mtime_ns == trained
    assert anomalib_nagl(*command) == 0
    assert finished_cells(tmp_path) == after  # nothing was left to do


class Epochs(Callback):
    """Notes the epochs that are trained, and breaks off before one of them."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken, self.seen = broken, list[int]()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.broken:
            raise RuntimeError("killed")
        self.seen.append(trainer.current_epoch)


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_head(finished: Path, drawn: Path, tmp_path: Path) -> None:
    head = TrainingJob("nagl", "other_domains", "plate", 0)
    settings = [settings_of(drawn, tmp_path / name, epochs=3, episodes=16) for name in ("whole", "killed")]
    whole = read_head(train_head(settings[0], head)).state
    with pytest.raises(RuntimeError, match="killed"):
        train_head(settings[1], head, [Epochs(broken=2)])
    assert not head_path(settings[1], head).exists()
    epochs = Epochs()
    resumed = read_head(train_head(settings[1], head, [epochs])).state
    assert epochs.seen == [2]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert [path.suffix for path in (tmp_path / "killed/heads").iterdir() if path.suffix != ".lock"] == [".ckpt"]
    train_head(settings[1], head, [epochs])
    assert epochs.seen == [2]


def test_a_cell_that_fails_is_told_and_tried_again(
    finished: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    for path in (out / "cells").glob("nagl_*.json"):
        path.unlink()
    (out / HEAD).write_bytes(b"no checkpoint")
    command = (*QUICK, "--data", drawn, "--out", out)
    assert anomalib_nagl(*command) == 3
    failed = [row for row in rows_of(out) if row["status"] == "failed"]
    assert {row["model"] for row in failed} == {"nagl"}
    assert len(failed) == 6
    assert "not a checkpoint of plain tensors" in failed[0]["reason"]
    assert "6 cells failed" in capsys.readouterr().out
    shutil.copy(finished / HEAD, out / HEAD)
    assert anomalib_nagl(*command) == 0
    assert rows_of(out) == rows_of(finished)


def test_a_folder_keeps_to_its_settings(finished: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (*QUICK, "--data", drawn, "--out", finished, "--dry_run")
    with pytest.raises(ValueError, match=r"epochs=2 instead of 1.*choose another out"):
        anomalib_nagl(*command, "--epochs", 2)
    with pytest.raises(ValueError, match=r"largest=.*instead of"):
        anomalib_nagl(*command, "--shots", "[1+1, 1+2]")
    with pytest.raises(ValueError, match=r"heads.nagl=.*instead of"):
        anomalib_nagl(*command, "--heads.nagl.num_proxies", 5)
    more = ("--reference_seeds", 4, "--training_seeds", 2, "--models", "[normal_only, nagl]")
    assert anomalib_nagl(*command, *more) == 0
    said = capsys.readouterr().out
    # One more reference seed for 2 models, and a second head for 4 seeds, under 2 protocols.
    assert "24 cells" in said
    assert f"{2 * 2 + 2 * 4} to compute" in said
    assert "nagl_other-domains_parts_1 (to train), on cloth" in said


def test_halves_of_a_category_share_no_picture(drawn: Path, tmp_path: Path) -> None:
    settings = settings_of(drawn, tmp_path, sources=["same_object"])
    halves = [open_category(settings, "plate", part) for part in ("first", "second")]
    for split in ("train_data", "test_data"):
        first, second = ({str(path) for path in getattr(half, split).samples.image_path} for half in halves)
        assert first
        assert second
        assert not first & second
    types = [{s.defect_type for s in samples(half.test_data, LabelName.ABNORMAL)} for half in halves]
    assert types[0] == types[1] == {"missing", "scratch", "spot"}
    halves[1].setup()
    assert len(halves[1].test_data) == len(load_category(settings, "plate").good) + 12
