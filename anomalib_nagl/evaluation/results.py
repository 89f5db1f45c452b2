"""Cells as files: ``cells/KEY.json`` is there once its cell is finished; ``results.csv`` is the table made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_nagl.evaluation.names import ABNORMAL, PROTOCOLS, SOURCES
from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.io.files import atomic_write_bytes

DONE, NOT_RUN, FAILED = "done", "not run", "failed"
RESULTS, CELLS = "results.csv", "cells"
CELL_FIELDS = [field.name for field in fields(Cell)]
COLUMNS = [*CELL_FIELDS, "status", "reason", "queries", *METRICS, "seconds"]
_NUMBERS = dict.fromkeys(("n", "a", "reference_seed", "training_seed", "queries"), int)
_WORDS = dict.fromkeys(set(COLUMNS) - {*_NUMBERS, *METRICS, "seconds"}, str)
_SORTED_BY = ["category", "protocol", "model", "n", "a", "reference_seed", "source", "abnormal", "training_seed"]


def cell_path(folder: Path, cell: Cell) -> Path:
    """The file of a finished cell in the folder of an evaluation."""
    return folder / CELLS / f"{cell.key}.json"


def write_cell(folder: Path, cell: Cell, queries: int, metrics: Mapping[str, float], seconds: float) -> None:
    """Finish a cell: its number of queries, metrics (NaN where undefined) and the seconds that it took."""
    values = {name: None if math.isnan(metrics[name]) else metrics[name] for name in METRICS}
    row = {**asdict(cell), "status": DONE, "reason": "", "queries": queries, **values, "seconds": round(seconds, 2)}
    atomic_write_bytes(cell_path(folder, cell), json.dumps(row, indent=1).encode())


def unfinished(cell: Cell, status: str, reason: str) -> dict[str, Any]:
    """The row of a cell that was not run or failed, for a reason."""
    return {**asdict(cell), "status": status, "reason": " ".join(reason.split()), "queries": 0, "seconds": 0.0}


def write_results(folder: Path, others: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Write ``results.csv`` anew: all finished cells, and the rows of others; ``settings`` as in ``settings.json``."""
    frame = sort_rows(pd.concat([_read_cells(folder), _frame(others)], ignore_index=True), settings)
    atomic_write_bytes(folder / RESULTS, frame.to_csv(index=False, lineterminator="\n").encode())


def read_results(folder: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of an evaluation, also of one that is half done: finished cells, and what ``results.csv`` has besides.

    Metrics without a value are NaN. Raises ValueError if there are no results, or those of another version.
    """
    path = folder / RESULTS
    if not path.is_file() and not (folder / CELLS).is_dir():
        raise ValueError(f"found no {path}, expected the rows of an evaluation: run `anomalib-nagl evaluate` first")
    both = pd.concat([_read_table(path), _read_cells(folder)], ignore_index=True)
    return sort_rows(both.drop_duplicates(CELL_FIELDS, keep="last"), settings)


def sort_rows(frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Rows in the order of the settings; as they are where these are not known."""
    if not settings.get("models"):
        return frame.reset_index(drop=True)
    categories = [name for listed in settings["domains"].values() for name in listed]
    orders: dict[object, list[str]] = {
        "category": categories, "protocol": list(PROTOCOLS), "model": list(settings["models"]), "source": list(SOURCES),
        "abnormal": list(ABNORMAL),
    }  # fmt: skip

    def rank(column: pd.Series) -> pd.Series:
        order = {name: place for place, name in enumerate(orders.get(column.name, []))}
        return column.map(lambda name: order.get(name, len(order))) if order else column

    return frame.sort_values(_SORTED_BY, key=rank, kind="stable", ignore_index=True)


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table whose columns have their types, however few there are."""
    frame = pd.DataFrame(list(rows), columns=COLUMNS)
    return frame.astype({**_WORDS, **_NUMBERS, **dict.fromkeys((*METRICS, "seconds"), float)})


def _read_cells(folder: Path) -> pd.DataFrame:
    rows = []
    for path in sorted((folder / CELLS).glob("*.json")):
        try:
            rows.append(_row(json.loads(path.read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"found {path} that cannot be read ({reason}), expected a finished cell: delete it, and it is computed "
                "again"
            ) from error
    return _frame(rows)


def _row(given: Any) -> dict[str, Any]:
    """A finished cell as it is read from its file; KeyError, TypeError or ValueError say what is wrong with it."""
    row = dict(given)
    for name in COLUMNS:
        value = row[name]
        undefined = value is None and name in METRICS
        kinds = (int,) if name in _NUMBERS else (int, float) if name in (*METRICS, "seconds") else (str,)
        if not undefined and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"{name} is {value!r}")
    return row


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return _frame([])
    frame = pd.read_csv(path, dtype=_WORDS, keep_default_na=False, na_values={name: [""] for name in METRICS})
    if list(frame.columns) != COLUMNS:
        raise ValueError(
            f"found {path} with other columns than this version writes: choose another out, or move it away"
        )
    return frame.astype(dict.fromkeys(METRICS, float))
