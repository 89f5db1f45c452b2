"""An evaluation from beginning to end, going on where an earlier one was stopped."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from anomalib_nagl.evaluation import costs, expectation
from anomalib_nagl.evaluation.baselines import unavailable
from anomalib_nagl.evaluation.categories import Category, check_shots, load_category
from anomalib_nagl.evaluation.executors import Factory, local, run_jobs
from anomalib_nagl.evaluation.grid import TrainingJob, enumerate_cells, scoring_jobs, training_job, training_jobs
from anomalib_nagl.evaluation.heads import head_path
from anomalib_nagl.evaluation.names import baseline_of
from anomalib_nagl.evaluation.records import Cell
from anomalib_nagl.evaluation.results import FAILED, NOT_RUN, cell_path, unfinished, write_results
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.evaluation.work import perform
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.files import atomic_write_bytes

LOG = "log.txt"
MANY = 100  # cells whose time is worth telling before
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn())  # fmt: skip
_NUMBERS = (  # settings that a number depends on; seeds, shots, models and the like only add rows
    "data", "format", "domains", "backbone", "layers", "image_size", "epochs", "episodes", "learning_rate",
    "metric_size", "halved", "largest", "strategy",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Cells of an evaluation in the order of its results, models that cannot run here, and the folder for all."""

    cells: list[Cell]
    missing: dict[str, str]
    folder: Path
    categories: tuple[Category, ...] = ()

    @property
    def left(self) -> list[Cell]:
        """Cells to compute: those whose file is not there."""
        return [
            cell for cell in self.cells if cell.model not in self.missing and not cell_path(self.folder, cell).exists()
        ]

    @property
    def not_run(self) -> dict[Cell, str]:
        """A cell with the reason for each category of a model that cannot run."""
        found: dict[tuple[str, str], Cell] = {}
        for cell in self.cells:
            if cell.model in self.missing and not cell_path(self.folder, cell).exists():
                found.setdefault((cell.model, cell.category), cell)
        return {cell: self.missing[cell.model] for cell in found.values()}


class Told(NamedTuple):
    """What came of a cell that is not finished, and why."""

    status: str
    reason: str


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
    reasons = {name: unavailable(base, settings) for name in settings.models if (base := baseline_of(name))}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    return Plan(cells, missing, Path(settings.out), tuple(categories.values()))


def evaluate(settings: Settings, console: Console, factory: Factory | None = None) -> int:
    """Run an evaluation; returns 3 when some cell failed.

    ``factory`` makes the executors of its jobs; without one they are processes on this machine.
    """
    plan = make_plan(settings)
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            _check_folder(settings)  # again: another evaluation may have written there since
            facts = _write_folder(settings)
            return _evaluate(settings, plan, facts, console, factory or local(settings.processes, plan.folder / LOG))
    except Timeout:
        raise ValueError(
            f"found another evaluation at work in {plan.folder}, expected none: wait, or choose another out"
        ) from None


def _evaluate(settings: Settings, plan: Plan, facts: dict[str, Any], console: Console, factory: Factory) -> int:
    from anomalib_nagl.evaluation.report import write_report

    told = {cell: Told(NOT_RUN, reason) for cell, reason in plan.not_run.items()}
    write_results(plan.folder, _rows(told), facts)
    before = sum(cell_path(plan.folder, cell).exists() for cell in plan.cells)
    console.print(
        f"{len(plan.cells)} cells, {before} of them finished before. A cell is one model on one category with one draw "
        "of references.", soft_wrap=True, highlight=False,
    )  # fmt: skip
    if len(plan.left) >= MANY:
        text = expectation.told(settings, plan.categories, plan.left, download=True)
        console.print(text, soft_wrap=True, highlight=False)
    told |= _compute(settings, plan.left, console, factory)
    write_results(plan.folder, _rows(told), facts)
    _measure_costs(settings, plan.cells, console)
    for path in write_report(plan.folder):
        console.print(f"Written: {path}", soft_wrap=True, highlight=False)
    return _conclude(told, plan, console)


def _rows(told: dict[Cell, Told]) -> list[dict[str, Any]]:
    return [unfinished(cell, *found) for cell, found in told.items()]


def _compute(settings: Settings, cells: Sequence[Cell], console: Console, factory: Factory) -> dict[Cell, Told]:
    """Train the heads that are missing, then finish cells, each on the disk at once; returns those without a number."""
    work = partial(perform, json.dumps(asdict(settings)))
    heads = [job for job in training_jobs(settings, cells) if not head_path(settings, job).exists()]
    told: dict[Cell, Told] = {}
    with Progress(*_COLUMNS, console=console) as progress:
        training = progress.add_task("Training heads", total=len(heads), visible=bool(heads))
        scoring = progress.add_task("Cells", total=len(cells))
        untrained: dict[TrainingJob | None, str] = {}
        for trained in run_jobs(work, heads, factory, settings.processes):
            progress.advance(training)
            if trained.error is not None:
                untrained[trained.job] = f"its head could not be trained: {trained.error}"
        lost = {cell: reason for cell in cells if (reason := untrained.get(training_job(settings, cell)))}
        told |= {cell: Told(FAILED, reason) for cell, reason in lost.items()}
        progress.advance(scoring, len(lost))
        jobs = scoring_jobs(cell for cell in cells if cell not in lost)
        for scored in run_jobs(work, jobs, factory, settings.processes):
            progress.advance(scoring, len(scored.job.cells))
            told |= {cell: Told(NOT_RUN, reason) for cell, reason in (scored.value or {}).items()}
            if scored.error is not None:
                unsaved = (cell for cell in scored.job.cells if not cell_path(Path(settings.out), cell).exists())
                told |= {cell: Told(FAILED, scored.error) for cell in unsaved}
    return told


def _measure_costs(settings: Settings, cells: Sequence[Cell], console: Console) -> None:
    """Measure time and memory, unless the file has them of every model."""
    if not settings.costs or not costs.unmeasured(settings):
        return
    heads = [head_path(settings, job) for job in training_jobs(settings, cells)]
    trained = next((path for path in heads if path.exists()), None)
    with Progress(*_COLUMNS, console=console) as progress:
        measuring = progress.add_task("Time and memory of models", total=len(settings.models))
        begun: list[str] = []

        def tell(model: str) -> None:
            progress.update(measuring, completed=len(begun), description=f"Time and memory of {model}")
            begun.append(model)

        costs.write_costs(settings, trained, tell)
        progress.update(measuring, completed=len(begun), description="Time and memory of models")


def _conclude(told: dict[Cell, Told], plan: Plan, console: Console) -> int:
    for model, reason in plan.missing.items():
        console.print(f"Not run: {model}: {reason}", soft_wrap=True, highlight=False)
    failed = {cell: reason for cell, (status, reason) in told.items() if status == FAILED}
    for reason, cell in {reason: cell for cell, reason in failed.items()}.items():
        console.print(
            f"Failed: {cell.model} on {cell.category}: {reason}", soft_wrap=True, highlight=False, style="red"
        )
    if failed:
        console.print(f"{len(failed)} cells failed; the same command tries them again.", highlight=False)
    return exit_codes.of_items(len(failed))


def print_plan(settings: Settings, console: Console) -> None:
    """What would be computed."""
    plan = make_plan(settings)
    left = plan.left
    console.print(f"{len(plan.cells)} cells in {settings.out}, {len(left)} to compute", soft_wrap=True, highlight=False)
    text = expectation.told(settings, plan.categories, left, download=False)
    console.print(text, soft_wrap=True, highlight=False)
    table = Table()
    for column in ("model", "cells", "to compute", "remarks"):
        table.add_column(column, justify="right" if column in ("cells", "to compute") else "left", overflow="fold")
    for model in settings.models:
        counts = [str(sum(cell.model == model for cell in cells)) for cells in (plan.cells, left)]
        table.add_row(model, *counts, plan.missing.get(model, ""))
    console.print(table)
    for head in training_jobs(settings, left):
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


def _write_folder(settings: Settings) -> dict[str, Any]:
    """Write ``settings.json``, which tells also of the heads, models and seeds of runs before; returns its content."""
    path = Path(settings.out) / "settings.json"
    before = json.loads(path.read_bytes()) if path.exists() else {}
    now = _facts(settings)
    now["heads"] = {**before.get("heads", {}), **now["heads"]}
    now["models"] = list(dict.fromkeys([*before.get("models", []), *settings.models]))
    for name in ("reference_seeds", "training_seeds"):
        now[name] = max(getattr(settings, name), before.get(name, 0))
    now |= {"compare_to": settings.compare_to, "machine": _machine()}
    atomic_write_bytes(path, json.dumps(now, indent=1).encode())
    return now


def _machine() -> str:
    """What the last run ran on, for the head line of the tables."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("anomalib-nagl", "anomalib", "torch"))
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {versions}"
