"""The table of predictions: whole rows, whatever happens."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomalib_nagl.io import prediction_table
from anomalib_nagl.io.errors import EdgeError, WriteError
from anomalib_nagl.io.exit_codes import of_items
from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable, Region, failed_row, verdict_of

ROWS = (
    PredictionRow("a, b.png", "defective", 0.123456789, 0.5, "scratch of Monday", "scratch",
                  [Region(tuple(np.arange(1, 5)), np.int64(4), np.float32(0.75))]),
    PredictionRow("b.png", "good", 0.25, 0.5),
    failed_row(Path("c\udcff.png"), EdgeError("found no image,\n expected one")),
)  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_as_csv_and_json(tmp_path: Path) -> None:
    path, lines = tmp_path / "new/t.csv", tmp_path / "new/t.jsonl"
    with PredictionTable(path, lines) as table:
        for row in ROWS:
            table.write(row)
    assert (table.rows, table.failed, table.defective) == (3, 1, 1)
    assert table.first_error == "found no image, expected one"
    first, second, third = read(path)
    assert list(first) == list(PredictionRow._fields)
    assert first["score"] == "0.123457"
    assert json.loads(first["regions"]) == [{"box": [1, 2, 3, 4], "area": 4, "peak": 0.75}]
    assert (second["verdict"], second["threshold"], second["regions"]) == ("good", "0.500000", "[]")
    assert (third["image"], third["verdict"], third["score"]) == (r"c\udcff.png", "", "")
    assert third["error"] == "found no image, expected one"
    twin = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["image"] for row in twin] == ["a, b.png", "b.png", "c\udcff.png"]
    assert twin[0]["score"] == 0.123457
    assert twin[0]["regions"] == json.loads(first["regions"])
    assert twin[2]["score"] is None


def test_an_old_table_stays_until_there_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")
    with PredictionTable(path) as table:
        assert path.read_text() == "old"
        for count, row in enumerate(ROWS, 1):
            table.write(row)
            assert len(read(path)) == count  # handed to the system at once
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        data, self.room = data[: self.room], max(0, self.room - len(data))
        return int(self.file.write(data))


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_is_a_sentence_and_leaves_whole_rows(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    with PredictionTable(path) as table:
        table.write(ROWS[0])
        before = path.read_bytes()
        monkeypatch.setattr(table, "_files", [Full(table._files[0], room)])
        with pytest.raises(WriteError, match=r"^found no way to write .*t\.csv \(No space left.*expected room.*there"):
            table.write(ROWS[1])
    assert path.read_bytes() == before

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match=r"^found no room for t\.csv in .*\(No space left.*expected some: make room"):
        PredictionTable(path).write(ROWS[0])
    assert path.read_bytes() == before


def test_verdicts_and_statuses() -> None:
    assert [verdict_of(label) for label in (None, False, True)] == ["", "good", "defective"]
    assert set(prediction_table.VERDICTS) == {"good", "defective", "look again", ""}
    asked = [of_items(failed, defective, True) for failed, defective in ((0, 0), (0, 2), (1, 0), (1, 2))]
    assert asked == [0, 1, 3, 3]
    assert of_items(0, 2) == 0
