"""A table of predictions that never ends: CSV and JSON lines that are appended to, and begun anew when they are large.

What was written is read again at the next start, so that nothing is done twice; a last line that a killed program left
unfinished is taken away.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.io.prediction_table import PredictionRow, append_line, csv_line, json_line, texts_of

CSV, JSON_LINES, DONE = "predictions.csv", "predictions.jsonl", "done.jsonl"
COLUMNS = (*PredictionRow._fields, "at")
_STEM = CSV.removesuffix(".csv")


class Identity(NamedTuple):
    """What tells a file from another one of its name: size in bytes, and when it was changed, in nanoseconds."""

    size: int
    modified: int


class Done(NamedTuple):
    """A file that was scored, and what came of it: a verdict, or none and ``failed``."""

    identity: Identity
    verdict: str
    failed: bool


class PredictionLog:
    """``predictions.csv`` and ``predictions.jsonl`` in a folder; ``done`` says of a file by its path what came of it.

    Files larger than ``limit`` bytes get the time as part of their name, ``predictions-20260131T235959Z.csv``, and are
    never touched again, but that no more than ``keep`` pairs are kept (0: all). The JSON lines are the record: a row is
    in them before it is in the table, and a table that lacks the last one gets it at the next start. A context that
    closes the files. WriteError where they cannot be written; the rows before stay.
    """

    def __init__(self, folder: Path, limit: int, keep: int = 0) -> None:
        self.folder, self._limit, self._keep = folder, limit, keep
        self.done: dict[str, Done] = {}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> PredictionLog:
        """Read what was done before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (DONE, JSON_LINES):
            _mend(self.folder / name)
            for content in _objects(self.folder / name):
                self._remember(content)
        _mend(self.folder / CSV)
        self._complete()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def write(self, row: PredictionRow, identity: Identity, at: str) -> None:
        """Add the row of a file that was scored ``at`` a time (UTC, ISO 8601)."""
        self._rotate(at)
        self._append(JSON_LINES, json_line(row, at=at, size=identity.size, modified=identity.modified))
        self.done[row.image] = Done(identity, row.verdict, bool(row.error))
        self._append(CSV, csv_line([*texts_of(row), at]))

    def forget(self, path: str) -> None:
        """A file is no longer where it was: it need not be known."""
        self.done.pop(path, None)

    def keep_done(self) -> None:
        """Put what was done into a file of its own, without what is forgotten: logs may go."""
        lines = [
            json.dumps({"image": path, **one.identity._asdict(), "verdict": one.verdict, "failed": one.failed})
            for path, one in self.done.items()
        ]
        atomic_write_bytes(self.folder / DONE, "".join(f"{line}\n" for line in lines).encode())

    def _remember(self, content: dict[str, Any]) -> None:
        path, size, modified = (content.get(name) for name in ("image", "size", "modified"))
        if isinstance(path, str) and isinstance(size, int) and isinstance(modified, int):
            failed = bool(content.get("failed") or content.get("error"))
            self.done[path] = Done(Identity(size, modified), str(content.get("verdict", "")), failed)

    def _append(self, name: str, line: bytes) -> None:
        path = self.folder / name
        if name not in self._files:
            fresh = not path.is_file() or not path.stat().st_size
            self._files[name] = path.open("ab", buffering=0)
            if fresh and name == CSV:
                append_line(self._files[name], path, csv_line(COLUMNS))
        append_line(self._files[name], path, line)

    def _rotate(self, at: str) -> None:
        """Set both files aside when one of them is large, and drop the oldest."""
        present = [path for name in (CSV, JSON_LINES) if (path := self.folder / name).is_file()]
        if not any(path.stat().st_size >= self._limit for path in present):
            return
        self.keep_done()
        self.__exit__(None, None, None)
        moment = datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        stem, count = f"{_STEM}-{moment}", 1
        while any((self.folder / f"{stem}{path.suffix}").exists() for path in present):
            count += 1
            stem = f"{_STEM}-{moment}-{count}"
        for path in present:
            path.rename(self.folder / f"{stem}{path.suffix}")
        for suffix in (".csv", ".jsonl") if self._keep else ():
            for old in self._aside(suffix)[: -self._keep]:
                old.unlink(missing_ok=True)

    def _aside(self, suffix: str) -> list[Path]:
        """Files that were set aside, the oldest first."""
        found = self.folder.glob(f"{_STEM}-*{suffix}")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _complete(self) -> None:
        """Give the table the last row of the JSON lines, where a killed program left it out."""
        rows = list(_objects(self.folder / JSON_LINES))
        if not rows or _csv_rows(self.folder / CSV) > len(rows):  # it has a heading more
            return
        last = rows[-1]
        row = PredictionRow(**{name: last.get(name) for name in PredictionRow._fields if name != "regions"})  # type: ignore[arg-type]  # as it was written
        cells = texts_of(row)
        cells[PredictionRow._fields.index("regions")] = json.dumps(last.get("regions", []))
        self._append(CSV, csv_line([*cells, str(last.get("at", ""))]))


def _mend(path: Path) -> None:
    """Take away what follows the last whole line."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _csv_rows(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return sum(1 for _ in csv.reader(file))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines; what is none is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content
