"""Rows of an evaluation as numbers: means, standard deviations and paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from anomalib_nagl.evaluation.records import METRICS
from anomalib_nagl.evaluation.results import CELL_FIELDS, DONE, read_rows

KEY = CELL_FIELDS
SEEDS = ["reference_seed", "training_seed"]
BASELINE = "normal_only"
NAN = math.nan


class Entry(NamedTuple):
    """A mean, the standard deviation (of a sample) around it and the number of values; NaN where there is none."""

    mean: float
    spread: float
    seeds: int


class Line(NamedTuple):
    """A row of a table: an entry for each category, their mean, and the standard deviation over the categories.

    The spread of ``mean`` is that, over seeds, of the mean over the categories.
    """

    entries: dict[str, Entry]
    mean: Entry
    over_categories: float


class Setting(NamedTuple):
    """What a row of a table stands for besides its protocol, source and kind of references."""

    model: str
    n: int
    a: int


def read_results(path: Path) -> pd.DataFrame:
    """Read ``results.csv``: a row for each cell, the last done one of those that were tried repeatedly.

    Metrics without a value are NaN. Raises ValueError if there is no such file, or if it has other columns.
    """
    if not path.is_file():
        raise ValueError(f"found no {path}, expected the rows of an evaluation: run `anomalib-nagl evaluate` first")
    rows = [
        (*(getattr(row.cell, name) for name in KEY), row.status, row.reason, *(row.metrics[name] for name in METRICS))
        for row in read_rows(path)
    ]
    frame = pd.DataFrame(rows, columns=[*KEY, "status", "reason", *METRICS])
    order = (frame["status"] == DONE).sort_values(kind="stable").index
    return frame.loc[order].drop_duplicates([*KEY], keep="last").sort_index().reset_index(drop=True)


def entry(values: Iterable[float]) -> Entry:
    """Mean and standard deviation of those values that are numbers; no deviation of a single one."""
    kept = [float(value) for value in values if not math.isnan(value)]
    if not kept:
        return Entry(NAN, NAN, 0)
    return Entry(float(np.mean(kept)), float(np.std(kept, ddof=1)) if len(kept) > 1 else NAN, len(kept))


def line(values: pd.DataFrame, categories: Sequence[str], partial: bool = False) -> Line:
    """Summarise ``values`` (columns category, reference_seed, training_seed, value) over seeds and ``categories``.

    The mean over categories is that of their means: NaN when one has no number, unless ``partial``, which takes those
    that have. Its spread is taken over the seeds that have them all.
    """
    by_category: dict[str, list[float]] = {name: [] for name in categories}
    by_seed: dict[object, dict[str, float]] = {}
    columns = (values[name] for name in ("category", *SEEDS, "value"))
    for name, *seeds, value in zip(*columns, strict=True):
        if name in by_category and not math.isnan(value):
            by_category[name].append(float(value))
            by_seed.setdefault(tuple(seeds), {})[name] = float(value)
    entries = {name: entry(found) for name, found in by_category.items()}
    wanted = [name for name in categories if entries[name].seeds or not partial]
    over, per_seed = entry([]), entry([])
    if all(entries[name].seeds for name in wanted):
        over = entry([entries[name].mean for name in wanted])
        per_seed = entry([entry(found.values()).mean for found in by_seed.values() if len(found) == len(wanted)])
    return Line(entries, Entry(over.mean, per_seed.spread, per_seed.seeds), over.spread)


def values_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows with one metric as ``value``."""
    return rows[["category", *SEEDS]].assign(value=rows[metric].astype(float))


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """Models at their shots: by shots, and by first appearance within the same."""
    found = dict.fromkeys(
        Setting(str(model), int(n), int(a)) for model, n, a in zip(rows["model"], rows["n"], rows["a"], strict=True)
    )
    return sorted(found, key=lambda one: (one.n, one.a))


def rows_of(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The rows of a model at its shots."""
    return rows[(rows["model"] == setting.model) & (rows["n"] == setting.n) & (rows["a"] == setting.a)]


def with_numbers(rows: pd.DataFrame, metric: str) -> list[str]:
    """Categories for which any row has the metric, in order of appearance."""
    return list(dict.fromkeys(rows.loc[rows[metric].notna(), "category"]))


def paired(rows: pd.DataFrame, others: pd.DataFrame, metric: str, on: Sequence[str]) -> pd.DataFrame:
    """Differences rows - others, as ``value``, of rows that agree in the columns ``on``; those without a partner go.

    ``left`` and ``right`` are the values compared. ``others`` has at most one row for each combination of ``on``.
    """
    left = rows[["category", *SEEDS]].assign(left=rows[metric].astype(float))
    right = others[list(on)].assign(right=others[metric].astype(float))
    both = left.merge(right, on=list(on), how="inner", validate="many_to_one").dropna(subset=["left", "right"])
    return both.assign(value=both["left"] - both["right"])


def against_baseline(rows: pd.DataFrame, everything: pd.DataFrame, setting: Setting, metric: str) -> pd.DataFrame:
    """Differences of a model from ``normal_only`` with as many normal references, by category and reference seed.

    ``everything`` are the rows of the same protocol.
    """
    baseline = everything[(everything["model"] == BASELINE) & (everything["n"] == setting.n)]
    # Without a row for these shots, the one without abnormal references: the model looks at none.
    baseline = baseline.assign(near=(baseline["a"] != setting.a)).sort_values(["near", "a"], kind="stable")
    baseline = baseline.drop_duplicates(["category", "reference_seed"])
    return paired(rows_of(rows, setting), baseline, metric, ["category", "reference_seed"])


def expected_cells(rows: pd.DataFrame, setting: Setting, settings: dict[str, object]) -> int:
    """Cells that a category of a model at its shots should have: as many as there are seeds.

    Of the evaluation's settings where these are known, otherwise as many as any category of any shots has.
    """
    mine = rows[rows["model"] == setting.model]
    trained = bool((mine["training_seed"] >= 0).any())
    given = (settings.get("reference_seeds"), settings.get("training_seeds") if trained else 1)
    if isinstance(given[0], int) and isinstance(given[1], int):
        return given[0] * given[1]
    counted = mine.groupby(["category", "n", "a"])[SEEDS].size()
    return int(counted.max()) if len(counted) else 0


def sections(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Rows by protocol, source and kind of abnormal references, in order of appearance."""
    columns = ["protocol", "source", "abnormal"]
    keys = dict.fromkeys(zip(*(rows[name].astype(str) for name in columns), strict=True))
    return [(key, rows[(rows[columns] == list(key)).all(axis=1)]) for key in keys]
