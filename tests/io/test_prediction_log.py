"""Tables that never end: appended to, begun anew, read again, mended."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from anomalib_nagl.io.prediction_log import COLUMNS, Done, Identity, PredictionLog
from anomalib_nagl.io.prediction_table import PredictionRow, Region

AT = "2026-01-31T10:00:00Z"


def row(name: str, verdict: str = "good") -> PredictionRow:
    return PredictionRow(name, verdict, 0.25, 0.5, "n", "good", (Region((1, 2, 3, 4), 5, 0.75),))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    for name in ("a.png", "b\n.png"):
        with PredictionLog(tmp_path, 10_000) as log:
            log.write(row(name), Identity(3, 4), AT)
    rows = table(tmp_path / "predictions.csv")
    assert [one["image"] for one in rows] == ["a.png", "b\n.png"]
    assert list(rows[0]) == list(COLUMNS)
    assert rows[1]["at"] == AT
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert (first["score"], first["size"], first["modified"], first["regions"][0]["area"]) == (0.25, 3, 4, 5)
    with PredictionLog(tmp_path, 10_000) as log:
        assert log.done == {name: Done(Identity(3, 4), "good", False) for name in ("a.png", "b\n.png")}


def test_what_a_killed_program_left_is_mended(tmp_path: Path) -> None:
    """A line that is not whole goes, a row that only the record has comes into the table, as it would have been."""
    with PredictionLog(tmp_path, 10_000) as log:
        for name in ("a.png", "b.png", "c.png"):
            log.write(row(name), Identity(3, 4), AT)
    whole = (tmp_path / "predictions.csv").read_bytes()
    lines = (tmp_path / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "predictions.jsonl").write_bytes(b"".join(lines) + lines[0][:20])
    (tmp_path / "predictions.csv").write_bytes(whole[: whole.index(b"c.png") + 3])
    with PredictionLog(tmp_path, 10_000) as log:
        assert sorted(log.done) == ["a.png", "b.png", "c.png"]
    assert (tmp_path / "predictions.csv").read_bytes() == whole
    assert (tmp_path / "predictions.jsonl").read_bytes() == b"".join(lines)


def test_large_tables_are_set_aside_and_what_was_done_is_still_known(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, 900, keep=2) as log:
        for number in range(40):
            log.write(row(f"{number}.png", "defective"), Identity(number, 4), AT)
        log.forget("3.png")
        log.keep_done()
    aside = sorted(path.name for path in tmp_path.glob("predictions-*"))
    assert len(aside) == 4
    assert aside[0].startswith("predictions-20260131T100000Z")
    with PredictionLog(tmp_path, 900) as log:
        assert set(log.done) == {f"{number}.png" for number in range(40) if number != 3}
        assert log.done["7.png"] == Done(Identity(7, 4), "defective", False)
    kept = [
        one["image"] for name in ("predictions.csv", *aside) if name.endswith("csv") for one in table(tmp_path / name)
    ]
    assert kept
    assert len(kept) == len(set(kept))
    assert "39.png" in kept
