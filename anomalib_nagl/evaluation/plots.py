"""Plots of an evaluation: metrics against shots, by category, and curves; every model has one colour in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from anomalib_nagl.evaluation.metrics import FPR_LIMIT
from anomalib_nagl.evaluation.summary import MEAN, SEEDS, Entry, Setting, cell_of, entries_of, rows_of

SHOWN = ("image_AUROC", "pixel_AUROC", "pixel_AP", "AUPRO")
NAMES = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AP": "pixel AP",
    "AUPRO": "AUPRO (FPR < 0.3)",
}
# Okabe and Ito's colours, told apart with any colour vision; yellow is left out, it is faint on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = "osD^vPX*"
DASHES: tuple[Literal["-"], Literal["--"], Literal[":"], Literal["-."]] = ("-", "--", ":", "-.")
FIRST = ("nagl", "normal_only", "naive")
STEPS = 201
CURVES = (
    ("roc_fpr", "roc_tpr", "Image ROC", "true positive rate", 1.0),
    ("pixel_fpr", "pixel_tpr", "Pixel ROC", "true positive rate", 1.0),
    ("pro_fpr", "pro", "PRO", "per-region overlap", FPR_LIMIT),
)
Floats = NDArray[np.float64]


class Style(NamedTuple):
    """How a model is drawn; the colour of the ninth model is that of the first, with another marker and line."""

    colour: str
    marker: str
    dash: Literal["-", "--", ":", "-."]


def styles(models: Sequence[str]) -> dict[str, Style]:
    """A style for each model: the usual ones first, then the others in the order of their names."""
    order = [name for name in FIRST if name in models] + sorted(set(models) - set(FIRST))
    return {name: Style(COLOURS[i % 8], MARKERS[(i + i // 8) % 8], DASHES[i // 8 % 4]) for i, name in enumerate(order)}


def shots_of(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Numbers of normal and abnormal references, sorted; n + 0 only where there is no other with the same n.

    Models that read no abnormal references appear at the others, those with every normal image in tables alone.
    """
    found = {(int(n), int(a)) for n, a in zip(rows["n"], rows["a"], strict=True) if n or a}
    return sorted((n, a) for n, a in found if a or not any(other == n and more for other, more in found))


def setting_at(rows: pd.DataFrame, model: str, shots: tuple[int, int]) -> Setting:
    """A model at its shots; one that reads no abnormal references, with as many normal ones."""
    reads_none = not (rows.loc[rows["model"] == model, "a"] > 0).any()
    setting = Setting(model, *shots)
    return Setting(model, shots[0], 0) if reads_none and not len(rows_of(rows, setting)) else setting


def plot_shots(rows: pd.DataFrame, looks: Mapping[str, Style], title: str) -> Figure:
    """Four metrics against shots: the mean over categories with its standard deviation over seeds."""
    figure, axes = _four(f"{title}: mean over categories ± standard deviation over seeds")
    shots = shots_of(rows)
    models = [name for name in looks if name in set(rows.loc[rows["n"] + rows["a"] > 0, "model"])]
    hollow = set(models) - set(rows.loc[rows["a"] > 0, "model"])
    numbers = entries_of(rows)
    for axis, metric in zip(axes, SHOWN, strict=True):
        for i, model in enumerate(models):
            found = [numbers.get((setting_at(rows, model, each), metric, MEAN), Entry()) for each in shots]
            shift = 0.36 * ((i + 0.5) / len(models) - 0.5)
            _errorbar(axis, np.arange(len(shots)) + shift, found, looks[model], model, model in hollow)
        axis.set_title(NAMES[metric], loc="left", fontsize=11)
        axis.set_xticks(range(len(shots)), [f"{n}+{a}" for n, a in shots])
        axis.set_xlim(-0.4, len(shots) - 0.6)
        axis.grid(axis="y", alpha=0.3)
    for axis in axes[2:]:
        axis.set_xlabel("shots (normal + abnormal references)")
    marked = hollow if len(hollow) < len(models) else set()
    note = "Hollow: reads no abnormal references, drawn at every shot with the same n." if marked else ""
    _legend(figure, [_line(name, looks[name], looks[name].marker, name in marked) for name in models], note)
    return figure


def _errorbar(axis: Axes, places: NDArray[Any], found: Sequence[Entry], look: Style, model: str, hollow: bool) -> None:
    axis.errorbar(
        places, [entry.mean for entry in found], yerr=np.nan_to_num([entry.spread for entry in found]), label=model,
        color=look.colour, marker=look.marker, markerfacecolor="white" if hollow else look.colour, linestyle=look.dash,
        linewidth=1.5, markersize=5.5, capsize=2.5, elinewidth=1,
    )  # fmt: skip


def _four(title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, 7), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, list(figure.subplots(2, 2).flat)


def _line(name: str, look: Style, marker: str = "", hollow: bool = False) -> Line2D:
    """How a model is drawn, for a legend."""
    face = "white" if hollow else look.colour
    return Line2D([], [], color=look.colour, linestyle=look.dash, label=name, marker=marker, markerfacecolor=face)


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], note: str = "") -> None:
    """One legend below all axes, where it covers nothing."""
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(5, max(1, len(handles))), frameon=False, title=note,
        title_fontsize=8.5, fontsize=10,
    )  # fmt: skip


def plot_categories(rows: pd.DataFrame, looks: Mapping[str, Style], shots: tuple[int, int], title: str) -> Figure:
    """Four metrics by category at some shots: a bar for each model, with its standard deviation over seeds."""
    n, a = shots
    figure, axes = _four(f"{title}: {n} normal + {a} abnormal references, ± standard deviation over seeds")
    models = {name: setting_at(rows, name, shots) for name in looks}
    models = {name: setting for name, setting in models.items() if len(rows_of(rows, setting))}
    numbers = entries_of(rows)
    for axis, metric in zip(axes, SHOWN, strict=True):
        counted = list(dict.fromkeys(rows.loc[rows[metric].notna(), "category"]))
        width = 0.8 / max(1, len(models))
        lowest = 1.0
        for i, (model, setting) in enumerate(models.items()):
            bars = [numbers.get((setting, metric, name), Entry()) for name in (*counted, MEAN)]
            means = np.array([bar.mean for bar in bars])
            spreads = np.nan_to_num([bar.spread for bar in bars])
            places = np.arange(len(bars)) + (i + 0.5) * width - 0.4
            axis.bar(
                places, means, width, yerr=spreads, color=looks[model].colour, label=model,
                error_kw={"elinewidth": 0.8, "capsize": 1.5},
            )  # fmt: skip
            lowest = min([lowest, *(means - spreads)[~np.isnan(means)].tolist()])
        axis.set_title(NAMES[metric], loc="left", fontsize=11)
        axis.set_xticks(range(len(counted) + 1), [*(name.replace("_", "\n") for name in counted), "mean"], fontsize=8)
        # An AUROC of 0.5 is chance: bars from zero would hide the differences above it.
        axis.set_ylim(0.5 if metric.endswith("AUROC") and lowest > 0.5 else min(0.0, lowest), 1.02)
        axis.axvline(len(counted) - 0.5, color="0.6", linewidth=0.8)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    _legend(figure, [Patch(color=looks[name].colour, label=name) for name in models])
    return figure


def mean_curve(curves: pd.DataFrame, grid: Floats) -> tuple[Floats, Floats]:
    """Mean over categories and seeds of curves at the places of a grid, and the standard deviation over seeds, of each.

    ``curves`` has columns category, reference_seed, training_seed, x and y (arrays, x not falling). At a jump a curve
    has its upper value. The deviation is that of the mean over categories, NaN with fewer than two seeds that have all.
    """
    raised = [np.interp(grid, x, y) for x, y in zip(curves["x"], curves["y"], strict=True)]
    points = curves[["category", *SEEDS]].assign(y=raised)
    categories = points["category"].nunique()
    mean = np.mean([np.mean(np.stack(list(own)), 0) for _, own in points.groupby("category")["y"]], axis=0)
    seeds = [np.mean(np.stack(list(own)), 0) for _, own in points.groupby(SEEDS)["y"] if len(own) == categories]
    spread = np.std(np.stack(seeds), axis=0, ddof=1) if len(seeds) > 1 else np.full_like(mean, np.nan)
    return mean, spread


def read_curves(rows: pd.DataFrame, folder: Path, x: str, y: str) -> pd.DataFrame:
    """The curves of some cells from their score files; cells whose file or curve is missing are left out."""
    found = []
    for row in rows.to_dict("records"):
        path = folder / "scores" / f"{cell_of(row).key}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                if x in file.files and y in file.files and file[x].size and np.isfinite(file[y]).all():
                    about = {name: row[name] for name in ("category", *SEEDS)}
                    found.append({**about, "x": file[x].astype(np.float64), "y": file[y].astype(np.float64)})
    return pd.DataFrame(found, columns=["category", *SEEDS, "x", "y"])


def plot_curves(
    rows: pd.DataFrame, folder: Path, looks: Mapping[str, Style], shots: tuple[int, int], title: str
) -> Figure | None:
    """Mean ROC and PRO curves at some shots, with a band of one standard deviation over seeds; None without any."""
    figure = Figure(figsize=(9, 4.2), dpi=130, layout="constrained")
    figure.suptitle(
        f"{title}: {shots[0]} normal + {shots[1]} abnormal references, mean over categories, band: one standard "
        "deviation over seeds", fontsize=10,
    )  # fmt: skip
    drawn: dict[str, Any] = {}
    for axis, (x, y, name, label, limit) in zip(figure.subplots(1, 3).flat, CURVES, strict=True):
        grid = np.linspace(0, limit, STEPS)
        for model, look in looks.items():
            curves = read_curves(rows_of(rows, setting_at(rows, model, shots)), folder, x, y)
            if not len(curves):
                continue
            mean, spread = mean_curve(curves, grid)
            drawn[model] = axis.plot(grid, mean, color=look.colour, linestyle=look.dash, label=model, linewidth=1.5)
            if not np.isnan(spread).any():
                low, high = np.clip([mean - spread, mean + spread], 0, 1)
                axis.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
        axis.set(title=name, xlabel="false positive rate", ylabel=label, xlim=(0, limit), ylim=(0, 1.01))
        axis.grid(alpha=0.3)
    if not drawn:
        return None
    _legend(figure, [_line(name, looks[name]) for name in drawn])
    return figure
