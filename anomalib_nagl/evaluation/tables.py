"""Tables of an evaluation: every number with its spread, and all that is missing with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from anomalib_nagl.evaluation.markdown import EMPTY, bold_best, number, show, table
from anomalib_nagl.evaluation.records import IMAGE_METRICS, METRICS, PIXEL_METRICS
from anomalib_nagl.evaluation.results import DONE, NOT_RUN
from anomalib_nagl.evaluation.summary import (
    DIFFERENCES,
    MEAN,
    SECTION,
    Entries,
    Entry,
    Setting,
    entries,
    expected_cells,
    rows_of,
    sections,
    settings_of,
)

GROUPS = {"Image metrics": IMAGE_METRICS, "Pixel metrics": PIXEL_METRICS}
COSTS = {
    "ms_median": ("ms/query", 1),
    "ms_p95": ("ms/query, 95 %", 1),
    "of_encoder": ("times the encoder", 2),
    "s_references": ("s to take references", 2),
    "peak_mb": ("peak MB", 0),
    "state_mb": ("state MB", 1),
}
MAIN_COSTS = ("ms_median", "peak_mb")
REPORTED_SETTINGS = ("machine", "backbone", "layers", "image_size", "strategy", "epochs", "episodes", "learning_rate",
                     "reference_seeds", "training_seeds")  # fmt: skip
LEGEND = (
    "Rows: a model with n normal + a abnormal references, or with every normal image of the train split. An entry is "
    "the mean ± standard deviation over seeds (of the references and, for trained heads, of the training); without ± "
    "there is one. In the column *mean*, the mean over categories ± its standard deviation over seeds, then in "
    "parentheses the standard deviation over categories. Bold: "
    "the best of a column among models with the same n + a. [3 of 5]: seeds with a number, and seeds expected. "
    f"{EMPTY} means that there is no number: the cells are listed below as not run, failed or missing, or the metric "
    "has no value for their queries; a mean needs every category that has a number in its table."
)


def write_tables(
    frame: pd.DataFrame, summary: pd.DataFrame, costs: pd.DataFrame | None, settings: Mapping[str, Any]
) -> str:
    """All tables of the rows of an evaluation as markdown; ``summary`` is that of the rows, ``costs`` a row a model."""
    done = frame[frame["status"] == DONE]
    parts = ["# Results\n", _facts(frame, settings), LEGEND + "\n"]
    for key, rows in sections(done):
        own = summary[(summary[SECTION] == list(key)).all(axis=1)]
        numbers = entries(own)
        parts.append(f"## {title(*key)}\n")
        parts.append("### Means over categories\n\n" + main_table(rows, numbers, costs))
        for group, metrics in GROUPS.items():
            parts.append(f"### {group}\n")
            parts += [f"{metric}\n\n" + metric_table(rows, numbers, metric, settings) for metric in metrics]
        parts.append(_differences(rows, entries(own, DIFFERENCES), settings.get("compare_to", "normal_only")))
    if not len(done):
        parts.append("No cell is done.\n")
    if costs is not None and len(costs):
        parts.append("## Costs\n\n" + cost_table(costs))
    parts.append("## Not in the tables\n\n" + absent(frame, settings))
    return "\n".join(part for part in parts if part)


def title(protocol: str, source: str, abnormal: str) -> str:
    """The name of a section: its protocol, and what deviates from the usual."""
    text = f"Protocol {protocol}"
    if source != "other_domains":
        text += f", heads trained on source {source}"
    return text + (f", abnormal references {abnormal}" if abnormal != "real" else "")


def name_of(setting: Setting) -> str:
    """Label of a row."""
    if setting.n == setting.a == 0:
        return f"{setting.model} every normal image"
    return f"{setting.model} {setting.n}+{setting.a}"


def _blocks(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Models that have the same shots."""
    return [list(group) for _, group in groupby(settings, key=lambda setting: (setting.n, setting.a))]


def _facts(frame: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    counted = frame["status"].value_counts()
    text = ", ".join(f"{int(counted.get(status, 0))} {status}" for status in dict.fromkeys([DONE, *counted.index]))
    known = [f"{name}: {settings[name]}" for name in REPORTED_SETTINGS if settings.get(name) is not None]
    return f"Cells: {text}." + (f" Settings: {'; '.join(known)}." if known else "") + "\n"


def metric_table(rows: pd.DataFrame, numbers: Entries, metric: str, settings: Mapping[str, Any]) -> str:
    """One metric: models at their shots x categories and mean."""
    columns, body = [*dict.fromkeys(rows["category"]), MEAN], []
    for block in _blocks(settings_of(rows)):
        found = [[numbers.get((setting, metric, name), Entry()) for name in columns] for setting in block]
        expected = [expected_cells(rows, setting, settings) for setting in block]
        texts = [[show(entry, expected=count) for entry in row] for row, count in zip(found, expected, strict=True)]
        bold_best([[entry.mean for entry in row] for row in found], texts)
        body += [[name_of(setting), *text] for setting, text in zip(block, texts, strict=True)]
    return table(["model n+a", *columns], body)


def main_table(rows: pd.DataFrame, numbers: Entries, costs: pd.DataFrame | None) -> str:
    """Means over categories of every metric, with time and memory where they were measured."""
    joined = [name for name in MAIN_COSTS if costs is not None and name in costs.columns]
    body: list[list[str]] = []
    for block in _blocks(settings_of(rows)):
        found = [[numbers.get((setting, metric, MEAN), Entry()) for metric in METRICS] for setting in block]
        texts = [[show(entry) for entry in row] for row in found]
        bold_best([[entry.mean for entry in row] for row in found], texts)
        for setting, text in zip(block, texts, strict=True):
            body.append([name_of(setting), *text, *(_cost(costs, setting.model, name) for name in joined)])
    return table(["model n+a", *METRICS, *(COSTS[name][0] for name in joined)], body)


def _cost(costs: pd.DataFrame | None, model: str, name: str) -> str:
    found = costs[costs["model"] == model] if costs is not None else pd.DataFrame()
    return number(float(found[name].iloc[0]), COSTS[name][1]) if len(found) else EMPTY


def _differences(rows: pd.DataFrame, changes: Entries, compare_to: str) -> str:
    if set(rows["model"]) == {compare_to}:
        return ""
    if not changes:
        return f"No differences from {compare_to}: it has no cell that is done with the same references.\n"
    text = (
        f"### Differences from {compare_to} with the same n\n\nPaired by category and seed of the references: mean ± "
        "standard deviation of the differences, (standard deviation over categories). Positive is better.\n"
    )
    return text + "".join(f"\n{metric}\n\n" + difference_table(rows, changes, metric, compare_to) for metric in METRICS)


def difference_table(rows: pd.DataFrame, changes: Entries, metric: str, compare_to: str) -> str:
    """One metric: paired differences from a model."""
    columns = [*dict.fromkeys(rows["category"]), MEAN]
    body = [
        [name_of(setting), *(show(changes.get((setting, metric, name), Entry()), signed=True) for name in columns)]
        for setting in settings_of(rows)
        if setting.model != compare_to
    ]
    return table(["model n+a", *columns], body)


def cost_table(costs: pd.DataFrame) -> str:
    """What every model costs; those that were not measured are listed with the reason."""
    known = [name for name in COSTS if name in costs.columns]
    measured = costs[costs[known].notna().any(axis=1)] if known else costs.iloc[:0]
    body = [[str(row["model"]), *(number(float(row[name]), COSTS[name][1]) for name in known)]
            for _, row in measured.iterrows()]  # fmt: skip
    text = table(["model", *(COSTS[name][0] for name in known)], body) if body else ""
    for _, row in costs.drop(measured.index).iterrows():
        text += f"\n- {row['model']}: {row.get('status') or NOT_RUN}: {row.get('reason') or 'no reason given'}\n"
    return text


def absent(frame: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Everything that has no number: what was not run or failed, by reason, and cells that nobody has come to."""
    lines = []
    for (status, reason, model), rows in frame[frame["status"] != DONE].groupby(["status", "reason", "model"]):
        shots = sorted({(int(n), int(a)) for n, a in zip(rows["n"], rows["a"], strict=True)})
        categories, protocols = ([*dict.fromkeys(rows[name])] for name in ("category", "protocol"))
        where = "; ".join([", ".join(categories), " ".join(f"{n}+{a}" for n, a in shots), " ".join(protocols)])
        count = f"{len(rows)} {'cells' if len(rows) > 1 else 'cell'}"
        lines.append(f"- {model} {status or 'without a status'} ({where}; {count}): {reason or 'no reason'}")
    lines += _missing(frame, settings)
    return "\n".join(lines or ["Nothing: every cell is done."]) + "\n"


def _missing(frame: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Cells of models that have others, but neither a number nor a reason."""
    lines = []
    for key, rows in sections(frame):
        short = {}
        for setting in settings_of(rows):
            mine = rows_of(rows, setting)
            wanted = expected_cells(rows, setting, settings)
            for category in dict.fromkeys(rows["category"]):
                count = wanted - int((mine["category"] == category).sum())
                if count > 0:
                    short[f"{name_of(setting)} {category}"] = (count, wanted)
        if short:
            total = sum(count for count, _ in short.values())
            listed = ", ".join(f"{name} ({count} of {wanted})" for name, (count, wanted) in short.items())
            lines.append(f"- {title(*key)}: {total} cells not there (yet): {listed}")
    return lines
