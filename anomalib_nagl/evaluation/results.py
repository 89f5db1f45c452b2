"""``results.csv``: one row for each cell, appended as it is finished, whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.io.files import atomic_write_bytes

DONE, NOT_RUN, FAILED = "done", "not run", "failed"
CELL_FIELDS = tuple(field.name for field in fields(Cell))
COLUMNS = (*CELL_FIELDS, "status", "reason", "queries", *METRICS, "seconds")
_NUMBERS = ("n", "a", "reference_seed", "training_seed")


@dataclass(frozen=True)
class Row:
    """What came of a cell: ``done``, ``not run`` or ``failed`` with a reason, and its metrics, NaN where undefined."""

    cell: Cell
    status: str
    reason: str
    queries: int
    metrics: Mapping[str, float]
    seconds: float

    @classmethod
    def not_run(cls, cell: Cell, reason: str) -> Row:
        """A cell that cannot be computed."""
        return cls(cell, NOT_RUN, reason, 0, {}, 0.0)

    @classmethod
    def failed(cls, cell: Cell, reason: str) -> Row:
        """A cell whose computation raised."""
        return cls(cell, FAILED, reason, 0, {}, 0.0)

    @property
    def line(self) -> str:
        """One line of the file, with its end."""
        values: list[Any] = [getattr(self.cell, name) for name in CELL_FIELDS]
        values += [self.status, " ".join(self.reason.split()), self.queries]
        numbers = [float(self.metrics.get(name, math.nan)) for name in METRICS]
        values += ["" if math.isnan(number) else repr(number) for number in numbers]
        return _line([*values, f"{self.seconds:.2f}"])


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def read_rows(path: Path) -> list[Row]:
    """Rows of a file, none if it is not there; a last line that was torn by a kill is left out.

    ValueError if the file is not one of this version.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines()
    if whole and tuple(next(csv.reader(whole[:1]))) != COLUMNS:
        raise ValueError(
            f"found {path} with other columns than this version writes: choose another out, or move it away"
        )
    return [_row(values) for values in csv.DictReader(whole)]


def _row(values: Mapping[str, str]) -> Row:
    cell = Cell(**{name: int(values[name]) if name in _NUMBERS else values[name] for name in CELL_FIELDS})  # type: ignore[arg-type]
    metrics = {name: float(values[name]) if values[name] else math.nan for name in METRICS}
    seconds = float(values["seconds"])
    return Row(cell, values["status"], values["reason"], int(values["queries"]), metrics, seconds)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file in one step."""
    atomic_write_bytes(path, (_line(COLUMNS) + "".join(row.line for row in rows)).encode())


def append_row(path: Path, row: Row) -> None:
    """Add a row to a file that is there; it is on the disk when this returns."""
    with path.open("ab") as file:
        file.write(row.line.encode())
        file.flush()
        os.fsync(file.fileno())
