"""Curves of metrics against the number of references, as a picture and as a table.

    anomalib-nagl evaluate --config configs/evaluate/curves.yaml
    python examples/benchmarks/curves.py results/evaluate/curves [OTHER ...] [--picture FILE] [--table FILE]

Reads the results of evaluations, one for each backbone, draws image AUROC and pixel AP of a model for the mean of the
domains and for each, and prints what one more step in either direction is worth: the mean difference over domains of
pairs with the same draw, and its standard deviation over draws. ``--table`` writes the means as CSV, which
``anomalib-nagl references check`` reads from the package for the first folder's backbone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from anomalib_nagl.evaluation.plots import COLOURS, DASHES
from anomalib_nagl.evaluation.report import read_settings
from anomalib_nagl.evaluation.results import DONE, read_results

METRICS = {"image_AUROC": "image AUROC", "pixel_AP": "pixel AP"}
MEAN = "mean of domains"


class Run(NamedTuple):
    """An evaluation: the name of its backbone, and a row for each domain (or their mean), n, a and draw."""

    backbone: str
    rows: pd.DataFrame


def read(folder: Path, model: str) -> Run:
    """Rows of a model by domain, the mean of its categories, and of all domains where a draw has all of them."""
    settings = read_settings(folder / "settings.json")
    frame = read_results(folder, settings)
    done = frame[(frame["status"] == DONE) & (frame["model"] == model) & (frame["protocol"] == "fixed")]
    keys = ["domain", "n", "a", "reference_seed"]
    domains = done.groupby(keys, sort=False)[list(METRICS)].mean().reset_index()
    whole = domains[domains.groupby(keys[1:])["domain"].transform("nunique") == domains["domain"].nunique()]
    means = whole.groupby(keys[1:], sort=False)[list(METRICS)].mean().reset_index().assign(domain=MEAN)
    name = str(settings.get("backbone", folder.name)).rpartition(":")[2]
    return Run(Path(name).name, pd.concat([means, domains], ignore_index=True))


def draw(runs: Sequence[Run]) -> Figure:
    """A row for each metric, a column for the mean and for each domain; a colour for each number of defects."""
    domains = list(dict.fromkeys(runs[0].rows["domain"]))
    counts = sorted({int(a) for run in runs for a in run.rows["a"]})
    figure = Figure(figsize=(2.6 * len(domains), 5.6), dpi=110, layout="constrained")
    axes = figure.subplots(len(METRICS), len(domains), squeeze=False)
    for row, (metric, name) in enumerate(METRICS.items()):
        for column, domain in enumerate(domains):
            axis = axes[row][column]
            for run, dash in zip(runs, DASHES, strict=False):
                _lines(axis, run.rows[run.rows["domain"] == domain], metric, counts, dash, column == 0)
            shots = sorted({int(n) for n in runs[0].rows["n"]})
            axis.set_xscale("log", base=2)
            axis.set_xticks(shots, [str(n) for n in shots])
            axis.grid(alpha=0.3)
            if row == 0:
                axis.set_title(domain, fontsize=11)
            if column == 0:
                axis.set_ylabel(name)
            if row == len(METRICS) - 1:
                axis.set_xlabel("normal references")
    figure.suptitle(f"Draws of references: {max(run.rows['reference_seed'].nunique() for run in runs)}", fontsize=10)
    handles = [Line2D([], [], color=COLOURS[i], label=f"{a} defective") for i, a in enumerate(counts)]
    handles += [
        Line2D([], [], color="0.3", linestyle=dash, label=run.backbone) for run, dash in zip(runs, DASHES, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _lines(axis: Axes, rows: pd.DataFrame, metric: str, counts: Sequence[int], dash: str, band: bool) -> None:
    for i, a in enumerate(counts):
        found = rows[rows["a"] == a].groupby("n")[metric].agg(["mean", "std"])
        axis.plot(found.index, found["mean"], color=COLOURS[i], linestyle=dash, marker="o", markersize=3, linewidth=1.3)
        if band and dash == DASHES[0]:
            low, high = found["mean"] - found["std"], found["mean"] + found["std"]
            axis.fill_between(found.index, low, high, color=COLOURS[i], alpha=0.12, linewidth=0)


def steps(run: Run) -> pd.DataFrame:
    """What the next number of normal, or of defective, references is worth at each place of the mean of domains."""
    rows = run.rows[run.rows["domain"] == MEAN].set_index(["n", "a", "reference_seed"])[list(METRICS)]
    numbers = {name: sorted(set(rows.index.get_level_values(name))) for name in ("n", "a")}
    lines = []
    for name, values in numbers.items():
        other = "a" if name == "n" else "n"
        for here, there in pairwise(values):
            for fixed in numbers[other]:
                pair = [rows.xs((value, fixed), level=(name, other)) for value in (here, there)]
                change = (pair[1] - pair[0]).dropna()
                if len(change):
                    what = f"{here} -> {there} {'normal' if name == 'n' else 'defective'}, {fixed} of the others"
                    lines.append({"step": what} | {m: _mean(change[m]) for m in METRICS})
    return pd.DataFrame(lines)


def _mean(values: pd.Series) -> str:
    return f"{values.mean():+.3f} ± {values.std():.3f}"


def table(run: Run) -> pd.DataFrame:
    """Means over domains and draws by n and a, and the number of draws."""
    found = run.rows[run.rows["domain"] == MEAN].groupby(["n", "a"])
    return found[list(METRICS)].mean().round(3).assign(draws=found["reference_seed"].nunique()).reset_index()


def main() -> None:
    """Read, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--model", default="head_free")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/curves.png"))
    parser.add_argument("--table", type=Path, help="CSV of the first folder's means, n and a")
    given = parser.parse_args()
    runs = [read(folder, given.model) for folder in given.folders]
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(given.picture)
    console = Console(width=160)
    for run in runs:
        wide = table(run).pivot(index="n", columns="a", values=list(METRICS))
        console.print(f"\n{run.backbone}\n{wide.to_string()}\n\n{steps(run).to_string(index=False)}", highlight=False)
    if given.table:
        given.table.write_text(table(runs[0]).to_csv(index=False, lineterminator="\n"))
    console.print(f"Written: {given.picture}", highlight=False)


if __name__ == "__main__":
    main()
