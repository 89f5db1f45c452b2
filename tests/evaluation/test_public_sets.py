"""The configurations for public data sets, on stand-ins in exactly the folders of these sets."""

from __future__ import annotations

import csv
import runpy
import sys

import pytest
import yaml
from anomalib.data import BMAD, MPDD, BTech, MVTecAD, Visa
from support.commands import CONFIGS, anomalib_nagl
from support.standins import DEFECTS, GOOD, lay_out

from anomalib_nagl.evaluation.categories import load_category
from anomalib_nagl.evaluation.expectation import duration, expect
from anomalib_nagl.evaluation.grid import enumerate_cells
from anomalib_nagl.evaluation.settings import Settings

SETS = {"mvtec": MVTecAD, "visa": Visa, "btech": BTech, "mpdd": MPDD, "bmad": BMAD}
REPRODUCE = CONFIGS.parent / "examples/reproduce_paper.py"
QUICK = ("--backbone", "builtin", "--image_size", "64", "--metric_size", "32", "--processes", "1")


def settings_of(name: str) -> dict:
    return yaml.safe_load((CONFIGS / "evaluate" / f"{name}.yaml").read_text())


@pytest.fixture
def standin(request, tmp_path):
    """A configuration's name, and a root with all its categories."""
    found = settings_of(request.param)
    kind = SETS[request.param].__name__
    categories = [name for listed in found["domains"].values() for name in listed]
    return request.param, lay_out(kind, tmp_path / "data", categories)


@pytest.mark.parametrize("standin", SETS, indirect=True)
def test_a_dry_run_says_what_is_to_do_and_what_it_takes(standin, capsys, tmp_path):
    name, root = standin
    config = CONFIGS / "evaluate" / f"{name}.yaml"
    assert anomalib_nagl("evaluate", "--config", config, "--data", root, *QUICK, "--dry_run") == 0
    said = capsys.readouterr().out
    found = settings_of(name)
    seeds, shots = found["reference_seeds"], len(found["shots"])
    types = 2 if name in ("mvtec", "mpdd") else 1  # of the stand-ins: unseen needs a second
    protocols = 3 if types > 1 else 2
    categories = sum(map(len, found["domains"].values()))
    row = next(line for line in said.splitlines() if " head_free " in line)
    assert f" {categories * seeds * shots * protocols} " in row
    assert "Expected on" in said
    assert "GB of memory" in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("standin", SETS, indirect=True)
def test_one_command_runs_the_protocol_to_its_table(standin, tmp_path):
    name, root = standin
    found = settings_of(name)
    target = next(iter(found["domains"].values()))[-1]
    out = tmp_path / "out"
    few = ("--shots", "[1+0, 1+1]", "--models", "[normal_only, head_free, nagl]", "--targets", f"['{target}']")
    few += ("--epochs", "1", "--episodes", "8", "--reference_seeds", "1", "--heads", "{nagl: {}}", "--costs", "false")
    config = CONFIGS / "evaluate" / f"{name}.yaml"
    assert anomalib_nagl("evaluate", "--config", config, "--data", root, *QUICK, *few, "--out", out) == 0
    rows = list(csv.DictReader((out / "results.csv").open()))
    fixed = [row for row in rows if row["protocol"] == "fixed"]
    assert {row["status"] for row in rows} == {"done"}
    assert {row["model"] for row in fixed} == {"normal_only", "head_free", "nagl"}
    defects = DEFECTS * (2 if name in ("mvtec", "mpdd") else 1)
    assert {int(row["queries"]) for row in fixed} == {GOOD + defects - 1}  # without the reference
    assert all(float(row["pixel_AUROC"]) > 0.6 for row in fixed)  # masks lie where the spots are


COLUMNS = {
    "mvtec_to_bmad": ("MVTecAD", "BMAD", ["Brain"]),
    "mvtec_to_btech": ("MVTecAD", "BTech", ["01", "02", "03"]),
    "mvtec_to_mpdd": ("MVTecAD", "MPDD", ["connector", "tubes"]),
    "mvtec_to_visa": ("MVTecAD", "Visa", ["candle", "pcb1"]),
    "visa_to_mvtec": ("Visa", "MVTecAD", ["bottle", "wood"]),
}
SOURCES = {"MVTecAD": ["carpet", "zipper"], "Visa": ["cashew", "fryum"]}


@pytest.mark.parametrize(
    "column",
    ["mvtec_to_bmad", *(pytest.param(name, marks=pytest.mark.slow) for name in list(COLUMNS)[1:])],
)
def test_the_papers_column_runs_to_its_table(column, folder, monkeypatch, capsys):
    """The whole recipe on stand-ins: expected time first, head, every category there is, figures."""
    source, target, categories = COLUMNS[column]
    roots = [lay_out(source, folder / "source", SOURCES[source]), lay_out(target, folder / "target", categories)]
    quick = ["--model.backbone", "builtin", "--model.image_size", "96", "--model.epochs", "1", "--data.episodes", "8",
             "--data.validation_episodes", "8", "--data.validation_categories", str([categories[0]]),
             "--data.source.root", str(roots[0]), "--data.target.root", str(roots[1]),
             "--data.target.category", categories[0]]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(REPRODUCE), column, "--seeds", "1", "--", *quick])
    runpy.run_path(str(REPRODUCE), run_name="__main__")
    said = capsys.readouterr().out
    assert said.index("Expected on") < said.index("Training and adapting")
    rows = list(csv.DictReader((folder / f"results/paper/{column}_1/results.csv").open()))
    assert [row["category"] for row in rows] == categories
    assert all(0 <= float(row["pixel_AUROC"]) <= 1 for row in rows)
    assert "mean, ours" in said
    line = next(line for line in said.splitlines() if line.startswith(f"| `{column}` | 1 + 1 | "))
    page = (CONFIGS.parent / "docs/results.md").read_text()
    assert f"| `{column}` | 1 + 1 | " in page  # the row to replace
    assert line.count("|") == next(one for one in page.splitlines() if one.startswith(f"| `{column}` | 1 + 1")).count(
        "|"
    )


def test_expectation_grows_with_what_is_to_do(drawn, tmp_path):
    settings = Settings(
        data=str(drawn), domains={"a": ["cloth"], "b": ["plate"]}, models=["normal_only", "nagl"], shots=["1+1"],
        reference_seeds=2, training_seeds=1, backbone="builtin", image_size=64, epochs=2, episodes=100,
        out=str(tmp_path),
    )  # fmt: skip
    categories = [load_category(settings, name) for name in settings.evaluated]
    cells = enumerate_cells(settings, {category.name: category for category in categories})
    whole, none = expect(settings, categories, cells), expect(settings, categories, [])
    assert whole.training > 0
    assert whole.scoring > none.scoring == none.training == 0
    assert whole.disk == none.disk > 0
    assert whole.memory > 100e6
    assert whole.sentence(2).count("Expected on") == 1


def test_durations_as_people_say_them():
    assert [duration(seconds) for seconds in (4, 300, 7200)] == ["4 s", "5 min", "2.0 h"]
