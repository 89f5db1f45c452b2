"""How much a head loses when what it learnt from, or is shown, is further from the target, as a table.

A generalization gap is the metric in the favourable setting minus that in the other one, of cells with the same
references and the same seed of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from anomalib_nagl.evaluation.markdown import EMPTY, number, show, table
from anomalib_nagl.evaluation.metrics import image_metrics
from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.evaluation.results import DONE
from anomalib_nagl.evaluation.summary import (
    MEAN,
    SEEDS,
    Entry,
    Setting,
    aggregate,
    cell_of,
    rows_of,
    settings_of,
)

METRICS = ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AP")
OWN, OTHER = "own_types", "other_types"  # stand for protocols: the cells of ``fixed``, counted by defect type
LEGEND = (
    "Gap: the first setting minus the second, paired by category and seeds of references and training; mean ± standard "
    "deviation over seeds, in the column *mean* that over the categories which have the gap, in parentheses its "
    "standard deviation over these. *First* and *second* are the means of what was compared. Unless the gap says "
    "otherwise: protocol fixed, heads trained on other domains, real abnormal references. AP depends on the share of "
    "defects among the queries (or pixels), which differs where defect types are compared: AUROC is the measure there."
)


class Side(NamedTuple):
    """Cells to compare: which protocol, source and abnormal references they have."""

    protocol: str = "fixed"
    source: str = "other_domains"
    abnormal: str = "real"

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that are on this side."""
        kept = [rows[name] == value for name, value in self._asdict().items()]
        return rows[kept[0] & kept[1] & kept[2]]


class Gap(NamedTuple):
    """A gap by its name; for each category the first comparison with any pair counts, of a metric in ``metrics``."""

    name: str
    compared: tuple[tuple[str, Side, Side], ...]
    metrics: tuple[str, ...] = METRICS


GAPS = (
    Gap("object", (("same object - same domain", Side(source="same_object"), Side(source="same_domain")),)),
    Gap(
        "domain",
        (
            ("same domain - other domains", Side(source="same_domain"), Side()),
            ("same object - other domains", Side(source="same_object"), Side()),
        ),
    ),
    Gap(
        "defect type",
        (("the references' types - other types", Side(OWN), Side(OTHER)),),
        ("image_AUROC", "image_AP"),
    ),
    Gap("defect type, all - unseen", (("all types (fixed) - unseen types (unseen)", Side(), Side("unseen")),)),
    Gap("synthetic", (("real - cut_paste", Side(), Side(abnormal="cut_paste")),)),
    Gap("synthetic", (("real - perlin", Side(), Side(abnormal="perlin")),)),
)


class Found(NamedTuple):
    """A gap of a model at its shots: paired differences by category, and which comparison each category took."""

    pairs: pd.DataFrame
    taken: dict[str, str]


def write_gaps(frame: pd.DataFrame, folder: Path) -> str:
    """The gap table of the rows of an evaluation, as markdown; ``folder`` holds ``scores/``."""
    rows = frame[(frame["status"] == DONE) & (frame["training_seed"] >= 0) & (frame["a"] > 0)]
    categories = list(dict.fromkeys(rows["category"]))
    rows = pd.concat([rows, by_type(rows, folder)], ignore_index=True)
    head = ["gap", "compared", "model n+a", "metric", "first", "second", *categories, "mean"]
    body, reasons = [], []
    for gap in GAPS:
        lines = [one for setting in settings_of(rows) for one in _lines(gap, rows, setting, categories)]
        body += lines
        for name in categories:
            column = head.index(name)
            if all(one[column] == EMPTY for one in lines):
                reasons.append(f"- {gap.name} ({gap.compared[-1][0]}), {name}: {_reason(gap, rows, name)}")
    parts = ["# Gaps\n", LEGEND + "\n", table(head, body, left=4) if body else "No gap: see the reasons below.\n"]
    if not len(categories):
        reasons = ["- no cell of a trained head with abnormal references is done"]
    return "\n".join([*parts, *([f"Empty cells ({EMPTY}):\n\n" + "\n".join(reasons) + "\n"] if reasons else [])])


def _lines(gap: Gap, rows: pd.DataFrame, setting: Setting, categories: Sequence[str]) -> list[list[str]]:
    """Rows of the table: one for each metric for which any category has the gap."""
    lines = []
    for metric in gap.metrics:
        found = measure(gap, rows_of(rows, setting), metric)
        if not len(found.pairs):
            continue
        numbers = aggregate(found.pairs.assign(metric=metric), ["metric"]).drop(columns="metric").set_index("category")
        sides = [found.pairs.groupby("category")[side].mean().mean() for side in ("left", "right")]
        compared = "; ".join(f"{word}{_whose(word, found.taken)}" for word in dict.fromkeys(found.taken.values()))
        shown = [
            show(Entry(*numbers.loc[name]) if name in numbers.index else Entry(), signed=True)
            for name in (*categories, MEAN)
        ]
        lines.append(
            [gap.name, compared, f"{setting.model} {setting.n}+{setting.a}", metric, *map(number, sides), *shown]
        )
    return lines


def _whose(words: str, taken: dict[str, str]) -> str:
    """Which categories took a comparison, for those that most did not take."""
    own = [name for name, other in taken.items() if other == words]
    return f" ({', '.join(own)})" if 2 * len(own) <= len(taken) and len(own) < len(taken) else ""


def measure(gap: Gap, rows: pd.DataFrame, metric: str) -> Found:
    """The paired differences of a gap in the rows of a model at its shots."""
    parts, taken = [], {}
    for name in dict.fromkeys(rows["category"]):
        own = rows[rows["category"] == name]
        for words, first, second in gap.compared:
            pairs = _paired(first.of(own), second.of(own), metric)
            if len(pairs):
                parts.append(pairs)
                taken[name] = words
                break
    return Found(pd.concat(parts) if parts else pd.DataFrame(), taken)


def _paired(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Differences, as ``value``, of rows that agree in category and seeds: ``left`` minus ``right``."""
    on = ["category", *SEEDS]
    left = first[[*on, metric]].rename(columns={metric: "left"})
    right = second[[*on, metric]].rename(columns={metric: "right"})
    both = left.merge(right, on=on, validate="many_to_one").dropna()
    return both.assign(value=both["left"] - both["right"])


def _reason(gap: Gap, rows: pd.DataFrame, category: str) -> str:
    """Why no model has a gap of a category."""
    own = rows[rows["category"] == category]
    _, first, second = gap.compared[-1]
    if first.protocol == OWN and not len(pd.concat([first.of(own), second.of(own)])):
        return "its score files name no reference_types"
    for side in (first, second):
        if not len(side.of(own)):
            if side.protocol in (OWN, OTHER):
                kind = "of the references' types" if side.protocol == OWN else "of other types"
                return f"no scored defect is {kind}, or no good query is scored"
            usual = Side()
            differing = [f"{k} {v}" for k, v in side._asdict().items() if v != getattr(usual, k)]
            return f"no cell is done with {', '.join(differing) or 'the usual settings'}"
    return "no two cells agree in their seeds and have the metric"


def by_type(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Image metrics of cells of ``fixed`` by defect type, as rows of the protocols ``OWN`` and ``OTHER``.

    Good queries are scored against defects of the references' own types, and against the others, as far as there are
    any. Needs ``reference_types`` in the cell's score file.
    """
    found = []
    for row in rows[rows["protocol"] == "fixed"].to_dict("records"):
        path = folder / "scores" / f"{cell_of(row).key}.npz"
        if not path.is_file():
            continue
        with np.load(path, allow_pickle=False) as file:
            if "reference_types" not in file.files:
                continue
            types, scores, own = file["types"], file["scores"].astype(np.float64), set(file["reference_types"].tolist())
        defects: list[tuple[str, Callable[[str], bool]]] = [
            (OWN, lambda kind, own=own: kind in own),  # type: ignore[misc]
            (OTHER, lambda kind, own=own: kind not in own),  # type: ignore[misc]
        ]
        for protocol, belongs in defects:
            kept = np.array([kind == GOOD or belongs(kind) for kind in types.tolist()], bool)
            defective = types[kept] != GOOD
            values = {metric: math.nan for metric in row if metric in METRICS}
            if defective.any() and not defective.all():
                found_values = image_metrics(torch.from_numpy(scores[kept]), defective)
                values |= {metric: found_values[metric] for metric in ("image_AUROC", "image_AP")}
                found.append({**row, **values, "protocol": protocol})
    return pd.DataFrame(found, columns=rows.columns).astype(rows.dtypes.to_dict())
