"""Curves of metrics against the number of references, as a picture and as a table.

    anomalib-nagl evaluate --config configs/evaluate/curves.yaml
    python examples/benchmarks/curves.py results/evaluate/curves [OTHER ...] [--picture FILE] [--mean FILE]
        [--table FILE]

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
ALONG = {"n": "normal references", "a": "defective references"}
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


def draw(runs: Sequence[Run], mean_only: bool = False) -> Figure:
    """Against normal and defective references: two panels for each metric, a column for the mean and each domain.

    With ``mean_only`` the panels of the mean alone.
    """
    domains = [MEAN] if mean_only else list(dict.fromkeys(runs[0].rows["domain"]))
    kinds = [(metric, along) for metric in METRICS for along in ALONG]
    shape = (len(METRICS), len(ALONG)) if mean_only else (len(kinds), len(domains))
    size = (7.2, 4.8) if mean_only else (2.6 * len(domains), 10.4)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(*shape, squeeze=False, sharey="row" if mean_only else False)
    for i, (metric, along) in enumerate(kinds):
        for column, domain in enumerate(domains):
            axis = axes[divmod(i, len(ALONG))] if mean_only else axes[i, column]
            _panel(axis, runs, domain, metric, along)
            if column == 0 and not (mean_only and along == "a"):
                axis.set_ylabel(METRICS[metric])
            if i == 0 and not mean_only:
                axis.set_title(domain, fontsize=11)
    draws = ", ".join(f"{run.backbone} {run.rows['reference_seed'].nunique()}" for run in runs)
    figure.suptitle(f"{'Mean of domains; draws' if mean_only else 'Draws'} of references: {draws}", fontsize=10)
    labels = ("no defective", "1 defective", f"beside {_most(runs[0])} normal")
    handles = [Line2D([], [], color=COLOURS[i], label=label) for i, label in enumerate(labels)]
    handles += [
        Line2D([], [], color="0.3", linestyle=dash, label=run.backbone) for run, dash in zip(runs, DASHES, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _panel(axis: Axes, runs: Sequence[Run], domain: str, metric: str, along: str) -> None:
    """Lines without and with one defective reference, or, along these, of one number of normal references."""
    for run, dash in zip(runs, DASHES, strict=False):
        rows = run.rows[run.rows["domain"] == domain]
        for i, other in enumerate((0, 1)) if along == "n" else [(2, _most(run))]:
            found = rows[rows["a" if along == "n" else "n"] == other].groupby(along)[metric].agg(["mean", "std"])
            places = range(len(found))
            axis.plot(places, found["mean"], color=COLOURS[i], linestyle=dash, marker="o", markersize=3, linewidth=1.3)
            if dash == DASHES[0]:
                low, high = found["mean"] - found["std"], found["mean"] + found["std"]
                axis.fill_between(places, low, high, color=COLOURS[i], alpha=0.12, linewidth=0)
            axis.set_xticks(places, [str(count) for count in found.index])
    axis.set_xlabel(ALONG[along])
    axis.grid(alpha=0.3)


def _most(run: Run) -> int:
    """The number of normal references beside which most numbers of defective ones were measured."""
    return int(run.rows.groupby("n")["a"].nunique().idxmax())


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
    parser.add_argument("--mean", type=Path, help="picture of the mean of domains alone")
    parser.add_argument("--table", type=Path, help="CSV of the first folder's means, n and a")
    given = parser.parse_args()
    runs = [read(folder, given.model) for folder in given.folders]
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(given.picture)
    if given.mean:
        draw(runs, mean_only=True).savefig(given.mean)
    console = Console(width=160)
    for run in runs:
        wide = table(run).pivot(index="n", columns="a", values=list(METRICS))
        console.print(f"\n{run.backbone}\n{wide.to_string()}\n\n{steps(run).to_string(index=False)}", highlight=False)
    if given.table:
        given.table.write_text(table(runs[0]).to_csv(index=False, lineterminator="\n"))
    console.print(f"Written: {given.picture}", highlight=False)


if __name__ == "__main__":
    main()
