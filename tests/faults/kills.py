"""Programs that are killed or left without room in the midst of a write."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.places import TESTS

from faults import bits, entries
from faults.case import ANSWER, Case, World

PRELUDE = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
room, number, how = Path.cwd(), int(sys.argv[1]), sys.argv[2]
import sqlite3
count = 0
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate", "tempfile.mkstemp")

def due(event, arguments):
    # Every call that changes a file, counted through the interpreter's own audit, and every statement of SQLite.
    if event == "sqlite3.connect/handle":
        arguments[0].set_trace_callback(tick)
    elif event in CHANGES or event == "open" and isinstance(arguments[2], int) and arguments[2] & 3:
        tick()

def tick(*_):
    global count
    count += 1
    if count == number:
        if how == "kill":
            os.kill(os.getpid(), 9)
        raise OSError(28, "No space left on device")
"""
# What is written, in a program of its own, which is stopped at its first, second, ... write.
PROGRAMS: dict[str, str] = {
    "a token file": """
import torch
from anomalib_nagl.plugin.token_store import FileStore
store = FileStore(room / "tokens", "recipe", ["0" * 64], (4, 3), torch.float32)
sys.addaudithook(due)
store.put([0], torch.arange(12.0).reshape(1, 4, 3))
""",
    "a cell": """
from types import SimpleNamespace
from faults import bits
sys.addaudithook(due)
bits.write_cell(SimpleNamespace(room=room))
""",
    "a bank": """
from anomalib_nagl.bank.bank_file import BankFile
from faults.world import FACTS
bank = BankFile(room / "part.bank", FACTS)
sys.addaudithook(due)
bank.rename("dent", "scratch")
""",
    "a saved bank": """
from anomalib_nagl.bank.bank_file import BankFile
from faults.world import FACTS
bank = BankFile(room / "part.bank", FACTS)
sys.addaudithook(due)
bank.save(room / "part.bank")
""",
    "predictions": """
from anomalib_nagl.io import prediction_table
from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable
append = prediction_table._append
prediction_table._append = lambda *arguments: (tick(), append(*arguments), tick())
sys.addaudithook(due)
with PredictionTable(room / "predictions.csv", room / "predictions.jsonl") as table:
    for i in range(3):
        table.write(PredictionRow(f"{i}.png", "good", 0.25, 0.5))
""",
    "a checkpoint": """
import torch
from anomalib_nagl.plugin.checkpoint_io import NaglCheckpointIO
checkpoint = torch.load(room / "model.ckpt", weights_only=False)
sys.addaudithook(due)
NaglCheckpointIO().save_checkpoint(checkpoint, room / "model.ckpt")
""",
    "a record": """
from anomalib_nagl.references.record import make_record, write_record
sys.addaudithook(due)
write_record(make_record([]), room)
""",
}
MOMENTS = dict.fromkeys(PROGRAMS, range(1, 6)) | {
    "a bank": range(1, 40, 3), "a saved bank": range(1, 120, 12), "predictions": range(1, 20),
    "a checkpoint": range(1, 5),
}  # fmt: skip
READERS: dict[str, Callable[[World, Path], Any]] = {
    "a token file": bits.read_tokens,
    "a cell": lambda world, path: bits.read_cells(world, path) if (world.room / "cells").is_dir() else 0,
    "a bank": lambda world, path: _renamed(entries.open_bank(world, world.room / "part.bank")),
    "a saved bank": lambda world, path: _renamed(entries.open_bank(world, world.room / "part.bank")),
    "predictions": lambda world, path: _whole_rows(world.room / "predictions.csv"),
    "a checkpoint": lambda world, path: entries.load_checkpoint(world, world.room / "model.ckpt"),
    "a record": lambda world, path: _whole_record(world.room / "references.json"),
}


def run(code: str, room: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a room."""
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE.format(tests=str(TESTS)) + code, *map(str, arguments)]
    return subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=120, check=False, **options)


def _renamed(answer: dict[str, Any]) -> str:
    """Which of the two states a bank is in; there is no third one."""
    (name,) = {one[1] for one in answer["known"]} - {"part"}
    assert name in ("dent", "scratch")
    return str(name)


def _lay_out(world: World, program: str) -> None:
    world.copy(world.checkpoint if program == "a checkpoint" else world.bank)


def _whole_record(path: Path) -> str:
    import json

    return str(json.loads(path.read_bytes())["format"]) if path.exists() else "none"


def _whole_rows(path: Path) -> int:
    """Rows of a table, none of them torn, and no fewer in its twin but for the one that was being written."""
    import csv
    import json

    if not path.exists():
        return 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert path.read_bytes().endswith(b"\n")
    assert all(row["score"] == "0.250000" and row["error"] == "" for row in rows)
    twin = path.with_suffix(".jsonl")
    lines = twin.read_text().splitlines() if twin.exists() else []
    assert len(rows) - 1 <= len(lines) <= len(rows)
    assert [json.loads(line)["image"] for line in lines] == [row["image"] for row in rows][: len(lines)]
    return len(rows)


def _stopped(program: str, moment: int, how: str) -> Callable[[World], Path]:
    def make(world: World) -> Path:
        _lay_out(world, program)
        done = run(PROGRAMS[program], world.room, moment, how)
        assert done.returncode in (0, 1, -signal.SIGKILL), done.stderr
        left = [path for path in world.room.rglob("*") if path.is_file() and path.name.startswith(".")]
        assert how == "kill" or not left, f"left behind: {left}"
        return world.room

    return make


def _no_room(program: str) -> Callable[[World], Path]:
    """Files may not grow: as on a disk that is full."""

    def make(world: World) -> Path:
        import resource

        _lay_out(world, program)

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

        done = run(PROGRAMS[program], world.room, 0, "never", preexec_fn=limit)
        assert done.returncode in (0, 1), done.stderr
        return world.room

    return make


def cases() -> Iterator[Case]:
    if sys.platform == "win32":
        return
    for program in PROGRAMS:
        for moment in MOMENTS[program]:
            for how in ("kill", "full"):
                name = f"{program}, {'killed' if how == 'kill' else 'disk full'} at write {moment}"
                quick = moment == 3 and how == "kill" and program in ("a bank", "a cell", "predictions")
                yield Case("kills", name, _stopped(program, moment, how), READERS[program], ANSWER, quick=quick)
        yield Case(
            "kills", f"{program}, no room", _no_room(program), READERS[program], ANSWER, quick=program == "a bank"
        )
