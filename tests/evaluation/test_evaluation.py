"""anomalib-nagl evaluate: protocols, cells, the same numbers as the engine, and going on after a kill."""

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
from support.commands import CONFIGS

from anomalib_nagl import cli
from anomalib_nagl.evaluation import protocols, units
from anomalib_nagl.evaluation.categories import Category, load_category, open_category
from anomalib_nagl.evaluation.grid import Head, enumerate_cells, group_units
from anomalib_nagl.evaluation.heads import head_path, train_head
from anomalib_nagl.evaluation.records import GOOD, METRICS, Cell
from anomalib_nagl.evaluation.results import Row, append_row, read_rows, write_rows
from anomalib_nagl.evaluation.scoring import Bench, learned, naive
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.checkpoints import read_head
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.plugin.head_trainer import HeadTrainer
from anomalib_nagl.references.sampling import Sample

QUICK = (
    "evaluate", "--config", str(CONFIGS / "evaluate" / "quickstart.yaml"),
    "--domains", "{textures: [cloth], parts: [plate]}", "--targets", "[plate]", "--shots", "[1+0, 1+1]",
    "--reference_seeds", "3", "--protocols", "[fixed, unseen]", "--epochs", "1", "--episodes", "16",
    "--metric_size", "null",
)  # fmt: skip
HEAD = "heads/nagl_other-domains_parts_0.ckpt"


def evaluate(name: str, *arguments: object) -> int:
    """Run a command in this process; its errors are raised."""
    return cli.load(name)([str(argument) for argument in arguments])


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
    assert evaluate(*QUICK, "--data", drawn, "--out", out) == 0
    return out


def settings_of(drawn: Path, out: Path, **changes: Any) -> Settings:
    common: dict[str, Any] = {
        "data": str(drawn), "format": "DrawnPictures", "domains": {"textures": ["cloth"], "parts": ["plate"]},
        "targets": ["plate"], "shots": ["1+0", "1+1"], "reference_seeds": 3, "backbone": "gabor", "image_size": 128,
        "out": str(out),
    }  # fmt: skip
    return Settings(**{**common, **changes})


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tables and plots out, which have tests of their own."""
    from anomalib_nagl.evaluation import report

    monkeypatch.setattr(report, "write_report", lambda folder: [])


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
    row = next(row for row in read_rows(finished / "results.csv") if row.cell == cell)
    for name in ("image_AUROC", "pixel_AUROC"):
        assert row.metrics[name] == pytest.approx(metrics[name], abs=1e-4)
    with np.load(finished / "scores" / f"{cell.key}.npz") as found:
        scores = dict(zip(found["names"].tolist(), found["scores"].tolist(), strict=True))
    predicted = {
        Path(path).relative_to(drawn).as_posix(): float(score)
        for batch in engine.predict(model=model, datamodule=data)
        for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }
    assert predicted == pytest.approx(scores, abs=1e-5)


def test_the_naive_rule_is_what_it_says(drawn: Path, finished: Path) -> None:
    bench = Bench(settings_of(drawn, finished))
    category = bench.category("plate")
    draw = protocols.fixed(category, 2, 2, 0, (2, 2))._replace(queries=category.good[:2] + category.defects[:2])
    model = bench.untrained()
    seen: list[torch.Tensor] = []

    def rule(one: Any, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens)
        return naive(one, tokens)

    scored = bench.score(model, rule, category, draw)
    tokens, core = seen[0].double(), model.model
    cosine = torch.nn.functional.cosine_similarity
    defects, normal = core.abnormal_tokens[core.abnormal_patch_mask > 0].double(), core.normal_bank.double()
    assert 0 < len(defects) < core.abnormal_patch_mask.numel()
    for i, query in enumerate(tokens):
        near = [(1 + cosine(query[:, None], bank[None], dim=-1).max(1).values) / 2 for bank in (defects, normal)]
        patch = (near[0] + 1 - near[1]) / 2
        top = patch.topk(max(int(0.01 * len(patch)), 1)).values.mean()
        assert float(scored.scores[i]) == pytest.approx(float(top), abs=1e-5)
    assert [name.split("/")[0] for name in scored.names] == ["plate"] * 4
    assert scored.maps.shape == scored.masks.shape == (4, 128, 128)
    assert [bool(mask.any()) for mask in scored.masks] == [False, False, True, True]
    normal_only = bench.score(model, learned, category, draw._replace(abnormal=()))
    assert not torch.allclose(normal_only.scores, scored.scores)


@pytest.mark.slow
def test_after_a_kill_it_goes_on_with_what_is_left(
    finished: Path, drawn: Path, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("heads", "tokens"):  # to save time; training goes on by the same means as `anomalib train`
        shutil.copytree(finished / folder, tmp_path / folder)
    command = (*QUICK, "--data", str(drawn), "--out", str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "anomalib_nagl.cli", *command, "--processes", "2"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    results, helpers = tmp_path / "results.csv", []
    limit = time.monotonic() + 120
    while not results.exists() or results.read_bytes().count(b",done,") < 1:
        assert running.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)
    helpers = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    before = [line for line in results.read_text().splitlines(keepends=True) if ",done," in line and line[-1] == "\n"]
    assert 1 <= len(before) < 18
    with results.open("a") as file:
        file.write("nagl,plate,par")  # torn by a kill at the worst moment
    trained = (tmp_path / HEAD).stat().st_mtime_ns
    computed: list[Cell] = []
    original = units._row

    def count(bench: Bench, cell: Cell, *others: Any) -> Row:
        computed.append(cell)
        return original(bench, cell, *others)

    monkeypatch.setattr(units, "_row", count)
    assert evaluate(*command) == 0
    assert len(computed) == len(set(computed)) == 18 - len(before)
    assert set(before) <= set(results.read_text().splitlines(keepends=True))
    for found, expected in zip(rows_of(tmp_path), rows_of(finished), strict=True):
        numbers = [[float(row.pop(name) or "nan") for name in METRICS] for row in (found, expected)]
        assert found == expected
        # Helpers compute with one thread each: sums in another order.
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-3, nan_ok=True)
    assert (tmp_path / HEAD).stat().st_mtime_ns == trained
    assert evaluate(*command) == 0
    assert len(computed) == 18 - len(before)  # nothing was left to do
    assert psutil.wait_procs(helpers, timeout=20)[1] == []  # the helpers of a killed run end by themselves


def test_a_killed_training_goes_on_and_ends_with_the_same_head(
    finished: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head("nagl", "other_domains", "plate", 0)
    settings = [settings_of(drawn, tmp_path / name, epochs=3, episodes=16) for name in ("whole", "killed")]
    whole = read_head(train_head(settings[0], head)).state
    after_epoch = HeadTrainer.on_train_epoch_end

    def die(self: HeadTrainer, trainer: Any, nagl: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")
        after_epoch(self, trainer, nagl)

    with monkeypatch.context() as patch:
        patch.setattr(HeadTrainer, "on_train_epoch_end", die)
        with pytest.raises(RuntimeError, match="killed"):
            train_head(settings[1], head)
    assert not head_path(settings[1], head).exists()
    epochs: list[int] = []

    def count(self: HeadTrainer, trainer: Any, nagl: Any) -> None:
        epochs.append(trainer.current_epoch)
        after_epoch(self, trainer, nagl)

    monkeypatch.setattr(HeadTrainer, "on_train_epoch_end", count)
    resumed = read_head(train_head(settings[1], head)).state
    assert epochs == [2]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert [path.suffix for path in (tmp_path / "killed/heads").iterdir() if path.suffix != ".lock"] == [".ckpt"]
    train_head(settings[1], head)
    assert epochs == [2]


def test_a_cell_that_fails_is_told_and_tried_again(
    finished: Path, drawn: Path, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    kept = read_rows(out / "results.csv")
    write_rows(out / "results.csv", [row for row in kept if row.cell.model != "naive"])

    def fail(*arguments: Any) -> None:
        raise RuntimeError("the disk\nis on fire")

    command = (*QUICK, "--data", drawn, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(units, "_score", fail)
        assert evaluate(*command) == 1
    failed = [row for row in rows_of(out) if row["status"] == "failed"]
    assert {row["model"] for row in failed} == {"naive"}
    assert len(failed) == 6
    assert "the disk is on fire" in failed[0]["reason"]
    assert "the disk" in capsys.readouterr().out
    assert evaluate(*command) == 0
    assert rows_of(out) == rows_of(finished)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--epoch", 3), "--epoch.*did you mean 'epochs'"),
        (("--heads.nagl.learning_rat", 3), "learning_rat.*did you mean 'learning_rate'"),
        (("--heads.nagl.selection", "paper"), "selection=paper.*must not look at"),
        (("--models", "[nagle]"), "'nagle' in models.*did you mean 'nagl'"),
        (("--targets", "[plat]"), "'plat' in targets.*did you mean 'plate'"),
        (("--shots", "[one]"), "shots 'one', expected normal.abnormal"),
        (("--domains", "{parts: [plate]}"), "no category to train heads on.*second domain"),
        (("--domains", "{a: [plate], b: [plate]}"), "plate in domains, expected every category once"),
        (("--sources", "[same_domain]"), "sources=same_domain, expected a second domain"),
        (("--shots", "[1+24]"), "24 defective pictures of category 'plate'.*more than 24"),
        (("--format", "DrawnPicture"), "format='DrawnPicture'.*did you mean 'DrawnPictures'"),
        (("--domains", "{parts: [plate], a: [clot]}", "--targets", "[clot]"), "no drawn category 'clot'"),
    ],
)
def test_settings_that_make_no_sense(drawn: Path, tmp_path: Path, change: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        evaluate(*QUICK, "--data", drawn, "--out", tmp_path / "new", *change, "--dry_run")
    assert not (tmp_path / "new").exists()


def test_a_folder_keeps_to_its_settings(finished: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (*QUICK, "--data", drawn, "--out", finished, "--dry_run")
    with pytest.raises(ValueError, match=r"epochs=2 instead of 1.*choose another out"):
        evaluate(*command, "--epochs", 2)
    with pytest.raises(ValueError, match=r"largest=.*instead of"):
        evaluate(*command, "--shots", "[1+1, 1+2]")
    with pytest.raises(ValueError, match=r"heads.nagl=.*instead of"):
        evaluate(*command, "--heads.nagl.num_proxies", 5)
    more = ("--reference_seeds", 4, "--training_seeds", 2, "--models", "[normal_only, nagl]")
    assert evaluate(*command, *more) == 0
    said = capsys.readouterr().out
    # One more reference seed for 2 models, and a second head for 4 seeds, under 2 protocols.
    assert "24 cells" in said
    assert f"{2 * 2 + 2 * 4} to compute" in said
    assert "nagl_other-domains_parts_1 (to train), on cloth" in said


def a_category(types: dict[str, int]) -> Category:
    def listed(place: str, count: int, kind: str) -> tuple[Sample, ...]:
        return tuple(Sample(f"{place}/{i:03}.png", None, kind) for i in range(count))

    defects = tuple(sample for name, count in sorted(types.items()) for sample in listed(f"test/{name}", count, name))
    return Category("part", "root", listed("train/good", 12, GOOD), listed("test/good", 5, GOOD), defects)


def test_fixed_references_are_no_queries_and_grow_with_shots() -> None:
    category = a_category({"scratch": 6, "spot": 7, "dent": 3})
    drawn = set()
    for seed in range(20):
        large = protocols.fixed(category, 4, 4, seed, (4, 4))
        small = protocols.fixed(category, 1, 1, seed, (4, 4))
        assert small.normal == large.normal[:1]
        assert small.abnormal == large.abnormal[:1]
        assert small.queries == large.queries == protocols.fixed(category, 1, 0, seed, (4, 4)).queries
        assert not set(large.abnormal) & set(large.queries)
        assert {*large.queries, *large.abnormal} == {*category.good, *category.defects}
        assert set(large.normal) <= set(category.normal)
        drawn.add(large.abnormal)
    assert len(drawn) == 20


def test_copies_of_references_are_no_queries() -> None:
    category = a_category({"scratch": 6})
    twin = {category.normal[3].image: "same", category.good[2].image: "same"}
    for seed in range(30):
        draw = protocols.fixed(category, 1, 1, seed, (1, 1), lambda sample: twin.get(sample.image, sample.image))
        assert (category.good[2] in draw.queries) == (draw.normal[0] != category.normal[3])


def test_unseen_types_are_those_no_reference_shows() -> None:
    category = a_category({"scratch": 6, "spot": 7, "dent": 3})
    refused = 0
    for seed in range(30):
        kept = []
        for a in (0, 1, 2, 4):
            draw = protocols.fixed(category, 1, a, seed, (1, 4))
            try:
                places = protocols.unseen(category, draw, seed, [0, 1, 2, 4])
            except protocols.NotPossible:
                assert {sample.defect_type for sample in draw.abnormal} == set(category.types)
                refused += 1
                continue
            queries = [draw.queries[i] for i in places]
            types = {sample.defect_type for sample in queries}
            assert not types & {sample.defect_type for sample in draw.abnormal}
            assert set(category.good) <= set(queries)
            assert types > {GOOD}
            kept.append(queries)
        assert all(queries == kept[0] for queries in kept)
    assert 0 < refused < 30


def test_the_published_rule_takes_slices_of_the_queries() -> None:
    category = a_category({"scratch": 6, "spot": 5})
    draws = protocols.paper(category, 2, 2, 1)
    assert [draw.queries[0].defect_type for draw in draws] == [GOOD, "scratch", "spot"]
    assert {draw.normal for draw in draws} == {category.normal[2:4]}
    good, scratch, spot = draws
    assert [sample.image for sample in scratch.abnormal] == ["test/scratch/002.png", "test/scratch/003.png"]
    assert [sample.image for sample in spot.abnormal] == ["test/spot/002.png", "test/spot/003.png"]
    assert set(scratch.abnormal) <= set(scratch.queries)  # the leak, kept for comparison
    assert good.abnormal in (scratch.abnormal, spot.abnormal)
    assert protocols.paper(category, 2, 2, 1) == draws
    assert len({protocols.paper(category, 1, 1, seed)[0].abnormal[0].defect_type for seed in range(5)}) == 2
    assert [len(draw.abnormal) for draw in protocols.paper(category, 1, 2, 2)][2] == 1  # one left of five
    with pytest.raises(protocols.NotPossible, match=r"files 6 to 7 of test/.*"):
        protocols.paper(category, 1, 2, 3)
    assert protocols.paper(category, 1, 0, 0) == (
        protocols.Draw(category.normal[:1], (), category.good + category.defects),
    )


def test_cells_without_sense_are_left_out() -> None:
    settings = Settings(
        data="x", domains={"a": ["many"], "b": ["single", "other"]}, models=["normal_only", "naive", "nagl", "padim"],
        shots=["1+0", "1+1", "2+1", "0+2"], reference_seeds=2, training_seeds=3, protocols=["fixed", "unseen", "paper"],
        sources=["other_domains", "same_domain"], abnormal=["real", "cut_paste"],
    )  # fmt: skip
    two, one = a_category({"scratch": 6, "spot": 5}), a_category({"scratch": 6})
    cells = enumerate_cells(settings, {"many": two, "single": one, "other": two})
    assert len(set(cells)) == len(cells)
    assert {(cell.n, cell.a) for cell in cells if cell.model in ("normal_only", "padim")} == {(1, 0), (2, 0)}
    assert {(cell.n, cell.a) for cell in cells if cell.model == "naive"} == {(1, 1), (2, 1)}
    assert {(cell.n, cell.a) for cell in cells if cell.model == "nagl"} == {(1, 1), (2, 1), (0, 2)}
    assert {cell.category for cell in cells if cell.protocol == "unseen"} == {"many", "other"}
    assert {cell.category for cell in cells if cell.source == "same_domain"} == {"single", "other"}
    assert {cell.training_seed for cell in cells if cell.model != "nagl"} == {-1}
    synthetic = [cell for cell in cells if cell.abnormal != "real"]
    assert {(cell.model, cell.protocol) for cell in synthetic} == {("nagl", "fixed"), ("nagl", "unseen")}
    assert {cell.n for cell in synthetic} == {1, 2}
    assert sorted(cell.key for unit in group_units(cells) for cell in unit.cells) == sorted(c.key for c in cells)
    for unit in group_units(cells):
        assert len({(cell.model, cell.category, cell.n, cell.a, cell.reference_seed) for cell in unit.cells}) == 1


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


def test_results_lose_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    cell = Cell("nagl", "plate", "parts", 1, 1, 0, 0, "fixed")
    write_rows(path, [Row(cell, "done", "", 9, {name: 1 / 3 for name in METRICS}, 1.5)])
    append_row(path, Row.failed(cell, 'two\nlines, "quoted"'))
    whole = read_rows(path)
    assert whole[0].metrics["AUPRO"] == 1 / 3
    assert whole[1].reason == 'two lines, "quoted"'
    with path.open("a") as file:
        file.write(json.dumps("torn"))
    assert [row.line for row in read_rows(path)] == [row.line for row in whole]
    path.write_text("other,columns\n")
    with pytest.raises(ValueError, match="other columns"):
        read_rows(path)
