"""What is written from the folder of an evaluation: tables, plots, contact sheets, gaps, with numbers done by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from anomalib_nagl.evaluation.contact_sheet import choose_cells, draw_sheet, mask_path, pick, read_queries
from anomalib_nagl.evaluation.costs import read_costs
from anomalib_nagl.evaluation.gaps import write_gaps
from anomalib_nagl.evaluation.markdown import EMPTY, bold_best, number
from anomalib_nagl.evaluation.metrics import image_metrics
from anomalib_nagl.evaluation.plots import COLOURS, mean_curve, plot_categories, plot_curves, plot_shots, styles
from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.evaluation.report import write_report
from anomalib_nagl.evaluation.results import DONE, FAILED, NOT_RUN, read_results, unfinished, write_cell, write_results
from anomalib_nagl.evaluation.summary import DIFFERENCES, entries, entries_of, summarise
from anomalib_nagl.evaluation.tables import absent, difference_table, main_table, metric_table


def cell(model: str, category: str, a: int, seed: int, training: int = -1, **other: Any) -> Cell:
    return Cell(model, category, "domain", 1, a, seed, training, **{"protocol": "fixed", **other})


class Done(NamedTuple):
    cell: Cell
    metrics: dict[str, float]


def done(found: Cell, value: float, **other: float) -> Done:
    return Done(found, {**dict.fromkeys(METRICS, value), **other})


ROWS: list[Done | dict[str, Any]] = [
    done(cell("normal_only", "nut", 0, 0), 0.5),
    done(cell("normal_only", "nut", 0, 1), 0.75),
    done(cell("normal_only", "bolt", 0, 0), 0.5),
    done(cell("normal_only", "bolt", 0, 1), 0.5),
    # Its two trainings are paired with the same row of normal_only.
    done(cell("nagl", "nut", 1, 0, 0), 0.75),
    done(cell("nagl", "nut", 1, 0, 1), 0.875),
    done(cell("nagl", "nut", 1, 1, 0), 0.75),
    done(cell("nagl", "nut", 1, 1, 1), 0.875),
    done(cell("nagl", "bolt", 1, 0, 0), 0.25, pixel_AP=math.nan),
    done(cell("nagl", "bolt", 1, 0, 1), 0.5, pixel_AP=math.nan),
    done(cell("nagl", "bolt", 1, 1, 0), 0.25, pixel_AP=math.nan),
    done(cell("naive", "nut", 1, 0), 0.5),
    unfinished(cell("naive", "nut", 1, 1), FAILED, "out of memory"),
    unfinished(cell("winclip", "nut", 0, 0), NOT_RUN, "no weights | no network"),
    unfinished(cell("winclip", "bolt", 0, 0), NOT_RUN, "no weights | no network"),
]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return save(tmp_path, ROWS)


ORDER = {"domains": {"domain": ["nut", "bolt"]}, "models": ["normal_only", "nagl", "naive", "winclip"]}


def save(folder: Path, rows: list[Done | dict[str, Any]]) -> pd.DataFrame:
    """Write rows as an evaluation does, and read them again."""
    for row in rows:
        if isinstance(row, Done):
            write_cell(folder, row.cell, 10, row.metrics, 1.0)
    write_results(folder, [row for row in rows if isinstance(row, dict)], ORDER)
    return read_results(folder, ORDER)


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["status"] == DONE]


def table_of(frame: pd.DataFrame, metric: str, **settings: int) -> str:
    rows = finished(frame)
    return metric_table(rows, entries_of(rows), metric, settings)


def differences_of(frame: pd.DataFrame, compare_to: str = "normal_only") -> dict[str, list[str]]:
    changes = entries(summarise(frame, compare_to), DIFFERENCES)
    return body(difference_table(finished(frame), changes, "image_AUROC", compare_to))


def body(table: str) -> dict[str, list[str]]:
    lines = [[part.strip() for part in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in (lines[:1] + lines[2:])}


def test_entries_are_means_and_deviations_over_seeds(frame: pd.DataFrame) -> None:
    table = body(table_of(frame, "image_AUROC"))
    assert table == {
        "model n+a": ["nut", "bolt", "mean"],
        # nut: .5 and .75; bolt: .5 twice. Over categories: .625 and .5; over seeds: .5 and .625.
        "normal_only 1+0": ["0.625 ± 0.177", "0.500 ± 0.000", "0.562 ± 0.088 (0.088)"],
        # bolt lacks a seed; the mean's spread is over the three that have both: .5, .6875, .5.
        # Bold only where two models of the same shots have a number.
        "nagl 1+1": ["**0.812 ± 0.072**", "0.333 ± 0.144 [3 of 4]", "0.573 ± 0.108 (0.339) [3 of 4]"],
        "naive 1+1": ["0.500", EMPTY, EMPTY],
    }


def test_metric_without_value_has_no_mean(frame: pd.DataFrame) -> None:
    table = body(table_of(frame, "pixel_AP"))
    assert table["nagl 1+1"][1:] == [EMPTY, EMPTY]
    assert table["normal_only 1+0"][2] == "0.562 ± 0.088 (0.088)"


def test_differences_are_paired_by_category_and_reference_seed(frame: pd.DataFrame) -> None:
    table = differences_of(frame)
    # nut: .25 .375 0 .125; bolt: -.25 0 -.25. Seeds that have both: (0, .1875, -.125).
    assert table["nagl 1+1"] == ["+0.188 ± 0.161", "-0.167 ± 0.144", "+0.010 ± 0.157 (0.250)"]
    assert table["naive 1+1"] == ["0.000", EMPTY, EMPTY]
    # Had the order of the rows decided, shuffling them would change the result.
    assert differences_of(frame.sample(frac=1, random_state=0))["nagl 1+1"][2] == table["nagl 1+1"][2]


def test_differences_from_a_head_are_paired_by_its_training_too(tmp_path: Path) -> None:
    changed = [done(cell("other", "nut", 1, seed, training), 0.8125) for seed in (0, 1) for training in (0, 1)]
    table = differences_of(save(tmp_path, [*ROWS, *changed]), "nagl")
    # .75 and .875 by training seed, whatever the references: no mean over the categories, bolt has none.
    assert table["other 1+1"] == ["0.000 ± 0.072", EMPTY, EMPTY]
    assert "nagl 1+1" not in table


def test_expected_seeds_are_those_of_the_settings(frame: pd.DataFrame) -> None:
    table = body(table_of(frame, "image_AUROC", reference_seeds=3, training_seeds=2))
    assert table["normal_only 1+0"][0] == "0.625 ± 0.177 [2 of 3]"
    assert table["nagl 1+1"][0] == "**0.812 ± 0.072 [4 of 6]**"


def test_nothing_is_dropped_in_silence(frame: pd.DataFrame) -> None:
    text = absent(frame, {})
    assert "- naive failed (nut; 1+1; fixed; 1 cell): out of memory\n" in text
    assert "- winclip not run (nut, bolt; 1+0; fixed; 2 cells): no weights | no network\n" in text
    assert "nagl 1+1 bolt (1 of 4)" in text


def test_costs_are_joined(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "costs.csv").write_text(
        "model,status,reason,ms_median,peak_mb\nnagl,done,,12.25,900.6\nwinclip,not run,no weights,,\n"
    )
    table = body(main_table(finished(frame), entries_of(finished(frame)), read_costs(tmp_path / "costs.csv")))
    assert table["model n+a"][-2:] == ["ms/query", "peak MB"]
    assert table["nagl 1+1"][-2:] == ["12.2", "901"]
    assert table["naive 1+1"][-2:] == [EMPTY, EMPTY]
    assert read_costs(tmp_path / "none.csv") is None


def test_summary_has_the_numbers_of_the_tables(frame: pd.DataFrame) -> None:
    found = summarise(frame, "normal_only").query("model == 'nagl' and metric == 'image_AUROC'").set_index("category")
    assert found.loc["nut", ["mean", "difference", "pairs"]].tolist() == [0.8125, 0.1875, 4]
    assert found.loc["mean", "mean"] == pytest.approx((0.8125 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("value", "signed", "shown"),
    [(0.0625, False, "0.062"), (-0.0004, True, "0.000"), (0.01, True, "+0.010"), (math.nan, True, EMPTY)],
)
def test_numbers(value: float, signed: bool, shown: str) -> None:
    assert number(value, signed=signed) == shown


def test_best_is_bold_with_its_equals_and_not_alone() -> None:
    texts = [["a", "b", "c"], ["d", "e", "f"]]
    bold_best([[0.5001, 0.3, math.nan], [0.5004, 0.4, 1.0]], texts)
    assert texts == [["**a**", "b", "c"], ["**d**", "**e**", "f"]]


def test_finished_cell_counts_whatever_the_table_says(tmp_path: Path) -> None:
    one = cell("naive", "nut", 1, 0)
    save(tmp_path, [unfinished(one, FAILED, "killed"), unfinished(cell("naive", "nut", 1, 1), FAILED, "killed")])
    write_cell(tmp_path, one, 9, dict.fromkeys(METRICS, 1 / 3) | {"AUPRO": math.nan}, 1.234)
    frame = read_results(tmp_path, ORDER)
    assert frame[["status", "reason", "queries", "seconds"]].to_numpy().tolist() == [
        [DONE, "", 9, 1.23], [FAILED, "killed", 0, 0.0],
    ]  # fmt: skip
    assert frame["image_AP"][0] == 1 / 3
    assert math.isnan(frame["AUPRO"][0])
    write_results(tmp_path, [], ORDER)
    header, line = (tmp_path / "results.csv").read_text().splitlines()
    assert header.startswith("model,category,domain,n,a,reference_seed,training_seed,protocol,source,abnormal,status,")
    assert line.endswith("0.3333333333333333,,1.23")
    pd.testing.assert_frame_equal(read_results(tmp_path, ORDER), frame[:1])
    (tmp_path / "results.csv").write_text("other,columns\n")
    with pytest.raises(ValueError, match="other columns"):
        read_results(tmp_path, ORDER)


def test_table_alone_is_enough(frame: pd.DataFrame, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cells")
    pd.testing.assert_frame_equal(read_results(tmp_path, {}), frame)


def test_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no .*results.csv, expected the rows"):
        write_report(tmp_path)


def test_line_plots_show_the_means(frame: pd.DataFrame) -> None:
    rows = finished(frame)
    looks = styles(["naive", "normal_only", "nagl"])
    axis = plot_shots(rows, looks, "x").axes[0]
    drawn = {found.get_label(): found.lines[0] for found in axis.containers}
    # normal_only reads no abnormal references: its 1+0 stands at 1+1, hollow.
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1+1"]
    assert drawn["normal_only"].get_ydata()[0] == 0.5625
    assert drawn["nagl"].get_ydata()[0] == pytest.approx((0.8125 + 1 / 3) / 2)
    assert np.isnan(drawn["naive"].get_ydata()[0])
    assert drawn["normal_only"].get_markerfacecolor() == "white"
    assert {name: line.get_color() for name, line in drawn.items()} == {n: look.colour for n, look in looks.items()}
    top = next(found for found in axis.containers if found.get_label() == "normal_only").lines[2][0].get_segments()
    assert top[0][:, 1].tolist() == pytest.approx([0.5625 - 0.125 / math.sqrt(2), 0.5625 + 0.125 / math.sqrt(2)])


def test_bars_show_the_means_by_category(frame: pd.DataFrame) -> None:
    looks = styles(["naive", "normal_only", "nagl"])
    axis = plot_categories(finished(frame), looks, (1, 1), "x").axes[0]
    bars = {found.get_label(): [bar.get_height() for bar in found] for found in axis.containers if len(found) == 3 and
            hasattr(found, "patches")}  # fmt: skip
    assert bars["normal_only"] == [0.625, 0.5, 0.5625]
    assert bars["nagl"][:2] == pytest.approx([0.8125, 1 / 3])
    assert axis.patches[0].get_facecolor()[:3] == to_rgb(looks["nagl"].colour)


def test_colours_do_not_depend_on_who_else_is_there_in_which_order() -> None:
    assert styles(["padim", "nagl"])["nagl"] == styles(["nagl", "anomaly_dino", "naive"])["nagl"]
    many = styles([f"model_{i}" for i in range(20)])
    assert len(set(many.values())) == 20
    assert len(set(COLOURS)) == 8


def test_mean_curve_weighs_categories_equally() -> None:
    curves = pd.DataFrame({
        "category": ["nut", "nut", "bolt", "bolt"],
        "reference_seed": [0, 1, 0, 1],
        "training_seed": -1,
        # A jump at 0 counts with its upper value.
        "x": [np.array([0.0, 0.0, 1.0])] * 2 + [np.array([0.0, 1.0])] * 2,
        "y": [np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.5, 1.0])] + [np.array([0.0, 1.0])] * 2,
    })  # fmt: skip
    mean, spread = mean_curve(curves, np.array([0.0, 0.5, 1.0]))
    assert mean.tolist() == [0.375, 0.6875, 1.0]
    assert spread.tolist() == pytest.approx([0.25 / math.sqrt(2), 0.125 / math.sqrt(2), 0])
    assert np.isnan(mean_curve(curves.iloc[[0, 3]], np.array([0.0, 1.0]))[1]).all()


KINDS = ("good", "good", "good", "hole", "hole", "crack", "crack")
SCORES = (0.1, 0.2, 0.7, 0.9, 0.8, 0.3, 0.15)


def save_scores(folder: Path, found: Cell, **other: Any) -> None:
    (folder / "scores").mkdir(exist_ok=True)
    names = [f"{found.category}/test/{kind}/{i}.png" for i, kind in enumerate(KINDS)]
    line = {f"{name}_fpr": np.array([0.0, 1.0]) for name in ("roc", "pixel")}
    line |= {f"{name}_tpr": np.array([0.0, 1.0]) for name in ("roc", "pixel")}
    np.savez(
        folder / "scores" / f"{found.key}.npz", names=names, types=KINDS, scores=np.array(SCORES, np.float32),
        **line, pro_fpr=np.array([0, 0.3]), pro=np.array([0, 1.0]), **other,
    )  # fmt: skip


def test_sheet_picks_by_the_order_of_scores() -> None:
    # Defects from certain to missed: 3 4 5 6; good queries from certain to false alarm: 0 1 2.
    assert pick(KINDS, np.array(SCORES)) == {"best": [3, 4, 0, 1], "median": [4, 5, 0, 1], "worst": [6, 5, 2, 1]}
    assert pick(KINDS, np.array(SCORES), 1) == {"best": [3, 0], "median": [4, 1], "worst": [6, 2]}
    assert pick(("good",), np.array([0.5])) == {"best": [0], "median": [0], "worst": [0]}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of the queries of ``save_scores`` whose defects are marked in a corner."""
    data = tmp_path / "data"
    for i, kind in enumerate(KINDS):
        paths = [data / "nut/test" / kind / f"{i}.png", data / "nut/ground_truth" / kind / f"{i}_mask.png"]
        for path, content in zip(paths, (np.full((40, 60), 30 * i), np.pad(np.full((9, 9), 255), ((0, 31), (0, 51)))),
                                 strict=kind != "good"):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content.astype(np.uint8)).save(path)
    return data


def test_folder_becomes_a_report(tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, ROWS)
    shown = cell("nagl", "nut", 1, 0, 0)
    maps = np.random.default_rng(0).random((7, 12, 12)).astype(np.float16)
    save_scores(tmp_path, shown, maps=maps)
    (tmp_path / "settings.json").write_text(json.dumps({**ORDER, "data": str(images), "image_size": 64}))
    written = [path.relative_to(tmp_path).as_posix() for path in write_report(tmp_path)]
    assert written == [
        "tables.md", "summary.csv", "gaps.md", "plots/shots_fixed.png", "plots/categories_fixed_n1_a1.png",
        "plots/curves_fixed_n1_a1.png", "sheets/nut.png",
    ]  # fmt: skip
    for name in written[3:]:
        with Image.open(tmp_path / name) as picture:
            assert picture.width >= 900
            assert np.asarray(picture.convert("L")).std() > 5, name
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "Cells: 12 done, 2 not run, 1 failed. Settings: image_size: 64." in tables
    assert "do not publish" in caplog.text


def test_sheet_shows_picture_mask_and_map(tmp_path: Path, images: Path) -> None:
    frame, shown = save(tmp_path, ROWS), cell("nagl", "nut", 1, 0, 0)
    maps = np.arange(7 * 16, dtype=np.float16).reshape(7, 4, 4)
    save_scores(tmp_path, shown, maps=maps)
    assert choose_cells(frame, tmp_path) == {"nut": shown}
    queries = read_queries(tmp_path / "scores" / f"{shown.key}.npz")
    assert queries is not None
    axes = draw_sheet(shown, queries, images).axes
    assert [axes[i].get_title("left") for i in (0, 1, 4)] == ["hole 3", "score 0.900", "good 0"]
    picture, overlay = axes[0].images[0].get_array(), axes[1].images[1].get_array()
    assert picture.shape == (40, 60, 3)
    assert (picture == 90).all()
    assert (overlay.data == maps[3]).all()
    # Tinted is what lies above 99 % of the pixels of good images: all of a defect here, little of a good image.
    tinted = [~np.ma.getmaskarray(axes[i].images[1].get_array()) for i in (1, 5)]
    assert tinted[0].all()
    assert tinted[1].sum() <= 1
    outline = np.concatenate([path.vertices for path in axes[0].collections[0].get_paths()])
    assert outline.max(0).tolist() == [9, 9]
    assert outline.min(0).tolist() == [0, 0]
    assert not axes[4].collections  # good images have no outline
    assert mask_path(images, "nut/test/hole/99.png") is None


@pytest.mark.parametrize("settings", [{}, {"data": "nowhere"}])
def test_sheets_are_left_out_without_pictures(tmp_path: Path, settings: dict[str, str]) -> None:
    save(tmp_path, ROWS)
    save_scores(tmp_path, cell("nagl", "nut", 1, 0, 0), maps=np.zeros((7, 4, 4), np.float16))
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert not [path for path in write_report(tmp_path) if path.parent.name == "sheets"]
    assert "No contact sheet: the images are not where" in (tmp_path / "tables.md").read_text(encoding="utf-8")


def test_curves_are_left_out_without_scores(frame: pd.DataFrame, tmp_path: Path) -> None:
    assert plot_curves(finished(frame), tmp_path, styles(["nagl"]), (1, 1), "x") is None


def gap_rows() -> list[Done | dict[str, Any]]:
    def head(value: float, category: str, seed: int, **other: str) -> Done:
        return done(cell("nagl", category, 1, seed, 0, **other), value)

    return [
        *(head(value, "nut", seed) for seed, value in enumerate((0.5, 0.625))),
        *(head(value, "nut", seed, source="same_domain") for seed, value in enumerate((0.75, 0.625))),
        *(head(value, "nut", seed, source="same_object") for seed, value in enumerate((0.875, 1.0))),
        head(0.25, "nut", 0, abnormal="perlin"),
        head(0.375, "nut", 0, protocol="unseen"),
        head(0.5, "bolt", 0),
        head(0.75, "bolt", 0, source="same_object"),
        head(0.25, "bolt", 7, abnormal="perlin"),  # of other references: no pair
    ]


def test_gaps_by_hand(tmp_path: Path) -> None:
    frame = save(tmp_path, gap_rows())
    save_scores(tmp_path, cell("nagl", "nut", 1, 0, 0), reference_types=np.array(["hole"]))
    text = write_gaps(frame, tmp_path)
    found = {}
    for line in text.splitlines():
        if "| nagl 1+1 | image_AUROC |" in line:
            parts = [part.strip() for part in line.strip("| ").split(" | ")]
            found[parts[0], parts[1]] = parts[4:]
    assert found == {
        # first, second, nut, bolt, mean
        ("object", "same object - same domain"): ["0.938", "0.688", "+0.250 ± 0.177", EMPTY, "+0.250 ± 0.177"],
        # nut: .25 and 0; bolt is alone in its domain: .25.
        ("domain", "same domain - other domains (nut); same object - other domains (bolt)"): [
            "0.719", "0.531", "+0.125 ± 0.177", "+0.250", "+0.188 (0.088)",
        ],
        # Holes are above all good queries; of cracks against good, (.3 .15) to (.1 .2 .7): 3 of 6 pairs.
        ("defect type", "the references' types - other types"): ["1.000", "0.500", "+0.500", EMPTY, "+0.500"],
        ("defect type, all - unseen", "all types (fixed) - unseen types (unseen)"): [
            "0.500", "0.375", "+0.125", EMPTY, "+0.125",
        ],
        ("synthetic", "real - perlin"): ["0.500", "0.250", "+0.250", EMPTY, "+0.250"],
    }  # fmt: skip
    assert "- object (same object - same domain), bolt: no cell is done with source same_domain\n" in text
    assert "bolt: its score files name no reference_types" in text
    assert "- synthetic (real - cut_paste), nut: no cell is done with abnormal cut_paste\n" in text
    assert "- synthetic (real - perlin), bolt: no two cells agree in their seeds" in text


def test_metrics_of_gaps_agree_with_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(1)
    scores, defective = generator.integers(0, 9, 60).astype(float), generator.random(60) > 0.6  # with ties
    found = image_metrics(torch.from_numpy(scores), defective)
    assert found["image_AUROC"] == pytest.approx(roc_auc_score(defective, scores))
    assert found["image_AP"] == pytest.approx(average_precision_score(defective, scores))


def test_no_gaps_without_heads(tmp_path: Path) -> None:
    text = write_gaps(save(tmp_path, ROWS[:4]), tmp_path)
    assert "no cell of a trained head with abnormal references is done" in text
