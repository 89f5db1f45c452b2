"""An evaluation from beginning to end, going on where an earlier one was stopped."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anomalib_nagl.evaluation.categories import check_shots, load_category
from anomalib_nagl.evaluation.grid import Head, Unit, enumerate_cells, group_units, head_of, needed_heads
from anomalib_nagl.evaluation.heads import head_path
from anomalib_nagl.evaluation.records import Cell
from anomalib_nagl.evaluation.results import DONE, FAILED, Row, append_row, read_rows, write_rows
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.evaluation.workers import ERROR, ITEM, run_jobs
from anomalib_nagl.io.files import atomic_write_bytes

RESULTS = "results.csv"
_NUMBERS = (  # settings that a number depends on; seeds, shots, models and the like only add rows
    "data", "format", "domains", "backbone", "layers", "image_size", "epochs", "episodes", "learning_rate",
    "metric_size", "halved", "largest",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Cells of an evaluation in the order of its results, rows that are there, and models that cannot run here."""

    cells: list[Cell]
    rows: dict[Cell, Row]
    missing: dict[str, str]

    @property
    def left(self) -> list[Cell]:
        """Cells to compute."""
        return [cell for cell in self.cells if cell not in self.rows and cell.model not in self.missing]


def make_plan(settings: Settings) -> Plan:
    """Find out what there is to do; ValueError when the settings do not fit the data, or the folder other settings."""
    _check_folder(settings)
    categories = {name: load_category(settings, name) for name in settings.evaluated}
    check_shots(settings, list(categories.values()))
    cells = enumerate_cells(settings, categories)
    if not cells:
        raise ValueError(
            "found nothing to evaluate: with these models, shots and protocols no cell makes sense (heads and the "
            "naive rule need abnormal references, the protocol unseen a second defect type)"
        )
    missing = _unavailable(settings)
    return Plan(cells, _finished(settings), missing)


def _finished(settings: Settings) -> dict[Cell, Row]:
    return {row.cell: row for row in read_rows(Path(settings.out) / RESULTS) if row.status == DONE}


def evaluate(settings: Settings, console: Console) -> int:
    """Run an evaluation; returns 1 when some cell failed."""
    out = Path(settings.out)
    plan = make_plan(settings)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _check_folder(settings)  # again: another evaluation may have written there since
            _write_folder(settings)
            return _evaluate(settings, replace(plan, rows=_finished(settings)), console)
    except Timeout:
        raise ValueError(
            f"found another evaluation at work in {out}, expected none: wait, or choose another out"
        ) from None


def _evaluate(settings: Settings, plan: Plan, console: Console) -> int:
    from anomalib_nagl.evaluation.report import write_report

    out = Path(settings.out)
    rows = {**plan.rows, **_not_run(plan)}
    write_rows(out / RESULTS, rows.values())
    before = sum(cell in plan.rows for cell in plan.cells)
    console.print(f"{len(plan.cells)} cells, {before} of them finished before.", highlight=False)
    rows.update(_compute(settings, plan.left, console))
    order = {cell: i for i, cell in enumerate(plan.cells)}
    write_rows(out / RESULTS, sorted(rows.values(), key=lambda row: order.get(row.cell, len(order))))
    _measure_costs(settings, plan.cells, console)
    for path in write_report(out):
        console.print(f"Written: {path}", soft_wrap=True, highlight=False)
    return _conclude(rows, plan, console)


def _compute(settings: Settings, cells: Sequence[Cell], console: Console) -> dict[Cell, Row]:
    """Train the heads that are missing, then compute cells; every row is on the disk as soon as it is there."""
    heads = [head for head in needed_heads(settings, cells) if not head_path(settings, head).exists()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    rows: dict[Cell, Row] = {}

    def keep(row: Row) -> None:
        append_row(Path(settings.out) / RESULTS, row)
        rows[row.cell] = row
        progress.advance(scoring)

    with Progress(*columns, console=console) as progress:
        training = progress.add_task("Training heads", total=len(heads), visible=bool(heads))
        scoring = progress.add_task("Cells", total=len(cells))
        untrained: dict[Head, str] = {}
        for message in run_jobs(settings, heads):
            progress.advance(training)
            if message.kind == ERROR:
                untrained[message.job] = message.content
        ready = []
        for cell in cells:
            reason = untrained.get(head_of(settings, cell)) if cell.model in settings.heads else None
            if reason is None:
                ready.append(cell)
            else:
                keep(Row.failed(cell, f"its head could not be trained: {reason}"))
        for message in run_jobs(settings, group_units(ready)):
            unit: Unit = message.job
            if message.kind == ITEM:
                keep(message.content)
            for cell in unit.cells if message.kind == ERROR else ():
                if cell not in rows:
                    keep(Row.failed(cell, message.content))
    return rows


def _measure_costs(settings: Settings, cells: Sequence[Cell], console: Console) -> None:
    """Measure time and memory, unless the file has them of every model."""
    from anomalib_nagl.evaluation.costs import COSTS, write_costs

    path = Path(settings.out) / COSTS
    measured = {row["model"]: row["status"] for row in csv.DictReader(path.open())} if path.exists() else {}
    if not settings.costs or all(measured.get(model, FAILED) != FAILED for model in settings.models):
        return
    heads = [head_path(settings, head) for head in needed_heads(settings, cells)]
    with console.status("Measuring time and memory of each model"):
        write_costs(settings, next((path for path in heads if path.exists()), None))


def _not_run(plan: Plan) -> dict[Cell, Row]:
    """A row with the reason for each category of a model that cannot run."""
    found: dict[tuple[str, str], Row] = {}
    for cell in plan.cells:
        if cell.model in plan.missing and cell not in plan.rows:
            found.setdefault((cell.model, cell.category), Row.not_run(cell, plan.missing[cell.model]))
    return {row.cell: row for row in found.values()}


def _unavailable(settings: Settings) -> dict[str, str]:
    from anomalib_nagl.evaluation.baselines import PEERS, unavailable

    reasons = {name: unavailable(name, settings) for name in settings.models if name in PEERS}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _conclude(rows: Mapping[Cell, Row], plan: Plan, console: Console) -> int:
    for model, reason in plan.missing.items():
        console.print(f"Not run: {model}: {reason}", soft_wrap=True, highlight=False)
    failed = [row for row in rows.values() if row.status == FAILED]
    reasons = {row.reason: row.cell for row in failed}
    for reason, cell in reasons.items():
        console.print(
            f"Failed: {cell.model} on {cell.category}: {reason}", soft_wrap=True, highlight=False, style="red"
        )
    if failed:
        console.print(f"{len(failed)} cells failed; the same command tries them again.", highlight=False)
    return 1 if failed else 0


def print_plan(settings: Settings, console: Console) -> None:
    """What would be computed."""
    plan = make_plan(settings)
    console.print(
        f"{len(plan.cells)} cells in {settings.out}, {len(plan.left)} to compute", soft_wrap=True, highlight=False
    )
    table = Table()
    for column in ("model", "cells", "to compute", "remarks"):
        table.add_column(column, justify="right" if column in ("cells", "to compute") else "left", overflow="fold")
    for model in settings.models:
        counts = [str(sum(cell.model == model for cell in found)) for found in (plan.cells, plan.left)]
        table.add_row(model, *counts, plan.missing.get(model, ""))
    console.print(table)
    for head in needed_heads(settings, plan.left):
        path = head_path(settings, head)
        sources = ", ".join(settings.sources_of(head.source, head.category))
        done = "is there" if path.exists() else "to train"
        console.print(f"Head {path.stem} ({done}), on {sources}", soft_wrap=True, highlight=False)


def _facts(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(settings, name) for name in _NUMBERS}
    return json.loads(json.dumps({**found, "heads": settings.heads}))


def _check_folder(settings: Settings) -> None:
    """Raise ValueError when the folder holds numbers of other settings."""
    path = Path(settings.out) / "settings.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_bytes()), _facts(settings)
    different = [
        f"{name}={now[name]} instead of {before.get(name)}" for name in _NUMBERS if before.get(name) != now[name]
    ]
    different += [
        f"heads.{name}={arguments} instead of {before['heads'][name]}"
        for name, arguments in now["heads"].items()
        if before["heads"].get(name, arguments) != arguments
    ]
    if different:
        raise ValueError(
            f"found results of other settings in {settings.out} ({'; '.join(different)}), expected the same: choose "
            "another out. More seeds, models, targets, protocols, or shots with no more references than the largest "
            "of before may be added"
        )


def _write_folder(settings: Settings) -> None:
    path = Path(settings.out) / "settings.json"
    now = _facts(settings)
    seeds = {"reference_seeds": settings.reference_seeds, "training_seeds": settings.training_seeds}
    if path.exists():
        before = json.loads(path.read_bytes())
        now["heads"] = {**before["heads"], **now["heads"]}
        for name in seeds:
            seeds[name] = max(seeds[name], before.get(name, 0))
    atomic_write_bytes(path, json.dumps({**now, **seeds, "machine": _machine()}, indent=1).encode())


def _machine() -> str:
    """What the last run ran on, for the head line of the tables."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("anomalib-nagl", "anomalib", "torch"))
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {versions}"
