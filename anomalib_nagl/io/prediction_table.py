"""Tables of predictions, written row by row: whatever ends the program, finished rows are there, and whole."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from anomalib_nagl.io.errors import WriteError, printable
from anomalib_nagl.io.files import atomic_write_bytes

GOOD, DEFECTIVE, LOOK_AGAIN, NO_VERDICT = "good", "defective", "look again", ""
VERDICTS = (GOOD, DEFECTIVE, LOOK_AGAIN, NO_VERDICT)


class Region(NamedTuple):
    """A region that deviates: ``box`` (left, top, right, bottom) and ``area`` in pixels of the image, its peak score.

    Right and bottom lie outside.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


class PredictionRow(NamedTuple):
    """What is known of an image: a line of the table.

    ``verdict`` is one of ``VERDICTS``, empty without a threshold and for an image that failed, which has its reason in
    ``error``. ``score`` and ``threshold`` are on the same scale. ``defect_type`` is what kind of known defect it is, or
    that it is an unknown one; empty for a good part, and where references do not show two types.
    """

    image: str
    verdict: str = NO_VERDICT
    score: float | None = None
    threshold: float | None = None
    nearest_reference: str = ""
    nearest_type: str = ""
    regions: Sequence[Region] = ()
    error: str = ""
    defect_type: str = ""


def failed_row(image: str | Path, error: BaseException) -> PredictionRow:
    """The row of an image that failed; the reason on one line."""
    return PredictionRow(Path(image).as_posix(), error=" ".join(str(error).split()) or type(error).__name__)


def verdict_of(label: bool | None) -> str:
    """The verdict of a label; none where there is no threshold."""
    return NO_VERDICT if label is None else DEFECTIVE if label else GOOD


class PredictionTable:
    """A CSV file of ``PredictionRow``s, and the same as JSON lines in ``json_lines`` if that is given.

    The first row replaces an older file; each is handed to the system at once, as a whole line. A context that closes
    the files. ``rows``, and those that ``failed`` and are ``defective``, are counted. WriteError where they cannot be
    written, as on a full disk: the rows before it stay.
    """

    def __init__(self, path: Path, json_lines: Path | None = None) -> None:
        self.path, self.json_lines = path, json_lines
        self.rows = self.failed = self.defective = 0
        self.first_error = ""
        self._files: list[BinaryIO] = []

    def __enter__(self) -> PredictionTable:
        """Nothing is written yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []

    def write(self, row: PredictionRow) -> None:
        """Add a row."""
        lines = [(self.path, csv_line(texts_of(row)))]
        if self.json_lines is not None:
            lines.append((self.json_lines, json_line(row)))
        if self._files:
            for file, (path, line) in zip(self._files, lines, strict=True):
                append_line(file, path, line)
        else:
            self._files = [_start(path, line, path == self.path) for path, line in lines]
        self.rows += 1
        self.failed += bool(row.error)
        self.defective += row.verdict == DEFECTIVE
        self.first_error = self.first_error or row.error


def _start(path: Path, line: bytes, headed: bool) -> BinaryIO:
    """A file that has its first row, open for more."""
    atomic_write_bytes(path, (HEADER if headed else b"") + line)
    return path.open("ab", buffering=0)


def append_line(file: BinaryIO, path: Path, line: bytes) -> None:
    """Write a whole line or none; WriteError where there is no room for it."""
    end = file.seek(0, os.SEEK_END)
    try:
        written = file.write(line)
        if written != len(line):  # the disk became full in the midst of it; writing the rest says so
            file.write(line[written:])
    except OSError as error:
        file.truncate(end)
        raise WriteError(
            f"found no way to write another row into {path} ({error.strerror or error}), expected room for it: the "
            "rows before it are there; make room, or choose another place"
        ) from error


def texts_of(row: PredictionRow) -> list[str]:
    """The cells of a row: scores with six digits, regions as JSON."""
    score, threshold = ("" if value is None else f"{value:.6f}" for value in (row.score, row.threshold))
    regions = json.dumps([_plain(region) for region in row.regions])
    cells = row._replace(score=score, threshold=threshold, regions=regions)  # type: ignore[arg-type]  # texts now
    return [printable(str(cell)) for cell in cells]


def csv_line(cells: Sequence[str]) -> bytes:
    """Cells as a line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


HEADER = csv_line(PredictionRow._fields)


def json_line(row: PredictionRow, **more: Any) -> bytes:
    """A row as a line of JSON, with ``more`` fields after its own."""
    content = row._asdict() | {name: _rounded(getattr(row, name)) for name in ("score", "threshold")}
    content["regions"] = [_plain(region) for region in row.regions]
    return (json.dumps(content | more) + "\n").encode()


def _plain(region: Region) -> dict[str, Any]:
    return {"box": [int(side) for side in region.box], "area": int(region.area), "peak": _rounded(region.peak)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)
