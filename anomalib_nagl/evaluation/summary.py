"""Rows of an evaluation as numbers: means, standard deviations and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.evaluation.results import CELL_FIELDS, DONE

SEEDS = ["reference_seed", "training_seed"]
SECTION = ["protocol", "source", "abnormal"]
GROUP = [*SECTION, "model", "n", "a", "metric"]
MEAN = "mean"  # stands for a category: the mean over all
NUMBERS = ["mean", "sd_seeds", "count", "sd_categories"]
DIFFERENCES = ["difference", "sd_difference", "pairs", "sd_categories_difference"]


class Entry(NamedTuple):
    """A mean, the standard deviation (of a sample) around it and the number of values; NaN where there is none.

    Of a mean over categories the deviation is that over seeds, of the mean; ``over_categories`` is that over these.
    """

    mean: float = math.nan
    spread: float = math.nan
    seeds: int = 0
    over_categories: float = math.nan


class Setting(NamedTuple):
    """What a row of a table stands for besides its protocol, source and kind of references."""

    model: str
    n: int
    a: int


Entries = Mapping[tuple[Setting, str, str], Entry]  # by setting, metric and category


def summarise(frame: pd.DataFrame, compare_to: str) -> pd.DataFrame:
    """The numbers of all tables, one a row; category ``mean`` is that over categories, ``count`` the number of seeds.

    ``difference`` is that from the model ``compare_to`` with the same n, over ``pairs`` of equal category and seeds. A
    mean over categories is there where each has a number that has one in the section (protocol, source, abnormal) at
    all. Rows and values without a number are left out.
    """
    values = long_table(frame[frame["status"] == DONE])
    wanted = values.groupby([*SECTION, "metric"])["category"].nunique().rename("wanted")
    numbers = aggregate(values, GROUP, wanted)
    changes = aggregate(differences(values, compare_to), GROUP, wanted)
    changes = changes.rename(columns=dict(zip(NUMBERS, DIFFERENCES, strict=True)))
    return numbers.merge(changes, how="left", on=[*GROUP, "category"])


def long_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each number: the fields of its cell, ``metric`` and ``value``."""
    return rows.melt(CELL_FIELDS, list(METRICS), "metric", "value").dropna(subset="value")


def aggregate(values: pd.DataFrame, group: Sequence[str], wanted: pd.Series | None = None) -> pd.DataFrame:
    """Mean, deviation and number of seeds of each group by category, and over categories as category ``mean``.

    The mean over categories is that of their means, if there are as many as ``wanted`` (or always); its deviation is
    taken over the seeds that have them all.
    """
    group = list(group)
    by_category = values.groupby([*group, "category"], sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    over = by_category.groupby(group, sort=False)["mean"].agg(["mean", "std", "count"]).reset_index()
    by_seed = values.groupby([*group, *SEEDS], sort=False)["value"].agg(["mean", "count"]).reset_index()
    if wanted is None:
        wanted = over.set_index(group)["count"].rename("wanted")
    over, by_seed = (_complete(table, wanted) for table in (over, by_seed))
    seeds = by_seed.groupby(group, sort=False)["mean"].agg(["std", "count"]).reset_index()
    over = over.drop(columns="count").rename(columns={"std": "sd_categories"}).merge(seeds, how="left", on=group)
    both = pd.concat([by_category, over.assign(category=MEAN)], ignore_index=True).rename(columns={"std": "sd_seeds"})
    both["count"] = both["count"].fillna(0).astype(int)
    return both.reindex(columns=[*group, "category", *NUMBERS])


def _complete(table: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    joined = table.join(wanted, on=list(wanted.index.names))
    return joined[joined["count"] == joined["wanted"]].drop(columns="wanted")


def differences(values: pd.DataFrame, compare_to: str) -> pd.DataFrame:
    """Numbers of ``long_table`` less those of a model with the same n, paired by category and reference seed.

    Where that model has several, it is the one with the same a, source, abnormal references and training seed, as far
    as there is one, else the first of these. Numbers without a partner are left out, and those of the model itself.
    """
    own = values["model"] == compare_to
    both = values[~own].merge(values[own], on=["protocol", "metric", "n", "category", "reference_seed"],
                              suffixes=("", "_there"))  # fmt: skip
    order = []
    for name in ("a", "source", "abnormal", "training_seed"):
        both[f"{name}_differs"] = both[name] != both[f"{name}_there"]
        order += [f"{name}_differs", f"{name}_there"]
    both = both.sort_values(order, kind="stable").drop_duplicates([*CELL_FIELDS, "metric"]).sort_index()
    return both.assign(value=both["value"] - both["value_there"])[[*CELL_FIELDS, "metric", "value"]]


def entries(summary: pd.DataFrame, columns: Sequence[str] = NUMBERS) -> Entries:
    """The numbers of one section of a summary, or of ``DIFFERENCES``, to look up."""
    keys = zip(*(summary[name] for name in ("model", "n", "a", "metric", "category")), strict=True)
    numbers = zip(*(summary[name] for name in columns), strict=True)
    return {
        (Setting(model, int(n), int(a)), metric, category): Entry(mean, sd, int(count), over)
        for (model, n, a, metric, category), (mean, sd, count, over) in zip(keys, numbers, strict=True)
        if not math.isnan(mean)
    }


def entries_of(rows: pd.DataFrame) -> Entries:
    """The numbers of rows of one section, to look up."""
    values = long_table(rows)
    wanted = values.groupby("metric")["category"].nunique().rename("wanted")
    return entries(aggregate(values, GROUP, wanted))


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """Models at their shots: by shots, those with every normal image last, and by first appearance within the same."""
    found = rows[["model", "n", "a"]].drop_duplicates().sort_values(["n", "a"], kind="stable")
    everything = (found["n"] == 0) & (found["a"] == 0)
    found = pd.concat([found[~everything], found[everything]])
    return [Setting(str(model), int(n), int(a)) for model, n, a in found.itertuples(index=False)]


def rows_of(rows: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The rows of a model at its shots."""
    return rows[(rows["model"] == setting.model) & (rows["n"] == setting.n) & (rows["a"] == setting.a)]


def expected_cells(rows: pd.DataFrame, setting: Setting, settings: Mapping[str, Any]) -> int:
    """Cells that a category of a model at its shots should have: as many as there are seeds.

    Of the evaluation's settings where these are known, otherwise as many as any category of any shots has.
    """
    mine = rows[rows["model"] == setting.model]
    trained = bool((mine["training_seed"] >= 0).any())
    given = (settings.get("reference_seeds"), settings.get("training_seeds") if trained else 1)
    if isinstance(given[0], int) and isinstance(given[1], int):
        return given[0] * given[1]
    return int(mine.groupby(["category", "n", "a"]).size().max()) if len(mine) else 0


def sections(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Rows by protocol, source and kind of abnormal references, in order of appearance."""
    return [((str(p), str(s), str(a)), found) for (p, s, a), found in rows.groupby(SECTION, sort=False)]


def cell_of(row: Mapping[Any, Any]) -> Cell:
    """The cell of a row."""
    return Cell(**{name: row[name] for name in CELL_FIELDS})
