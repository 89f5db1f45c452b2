"""``edge predict`` of many images: what fails costs nothing else, and what is done is kept."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support.commands import nagl
from support.environments import ROOT
from support.exported import picture, pixels
from support.signals import hear_interrupts

from anomalib_nagl.commands.edge_images import find_items, overlay_names
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.prediction_table import PredictionRow

COMMAND = [sys.executable, "-W", "ignore", "-m", "anomalib_nagl.cli", "edge", "predict"]


def read(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Five images, with a defect in every other."""
    (folder := tmp_path / "parts").mkdir()
    for i in range(5):
        Image.fromarray(pixels(picture((60, 50), i, bool(i % 2)))).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("requests", [1, 3])
def test_what_fails_has_its_row(
    requests: int, box: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, vanished, non-regular and missing ones; the scores of the others are those of the detector."""
    (parts / "1b.png").write_bytes((parts / "1.png").read_bytes()[:200])
    (parts / "2b.jpg").write_text("no image")
    expected = {"1b.png", "2b.jpg"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(parts / "3b.png")
        (parts / "4b.png").symlink_to("nowhere.png")
        (parts / "4c.png").symlink_to("4c.png")
        expected |= {"3b.png", "4b.png", "4c.png"}
    missing = tmp_path / "gone.png"
    command = ("edge", "predict", box, parts, missing, "--out", tmp_path / "out", "--requests", requests, "--json")
    assert nagl(*command, "--review", 0) == 3
    rows = read(tmp_path / "out")
    assert list(rows[0]) == list(PredictionRow._fields)
    named = {Path(row["image"]).name: row for row in rows}
    assert list(named) == [*sorted(path.name for path in parts.iterdir()), "gone.png"]
    failed = {name for name, row in named.items() if row["error"]}
    assert failed == expected | {"gone.png"}
    assert all("expected" in named[name]["error"] and not named[name]["score"] for name in failed)
    detector = NaglEdge(box)
    for name in named.keys() - failed:
        found = detector.predict(parts / name)
        assert float(named[name]["score"]) == pytest.approx(found.score, abs=1e-6)
        assert float(named[name]["threshold"]) == detector.score_threshold == 0.5
        assert named[name]["verdict"] == ("defective" if found.label else "good")
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {f"{i}.png" for i in range(5)}
    twin = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["error"] for row in twin] == [row["error"] for row in rows]
    words = capsys.readouterr().err
    assert f"anomalib-nagl edge: {len(failed)} of {len(rows)} images failed, see column error of " in words
    assert named["1b.png"]["error"] in words


def test_strict_stops_at_the_first(box: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1b.png", "2b.png"):
        (parts / name).write_bytes(b"no image")
    assert nagl("edge", "predict", box, parts, "--out", tmp_path / "out", "--strict", "--requests", 2) == 3
    rows = read(tmp_path / "out")
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "1b.png"]
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert "stopped at image 3 of 7, see column error of" in capsys.readouterr().err


def test_the_status_tells_of_defects_when_it_is_asked(box: Path, parts: Path, tmp_path: Path) -> None:
    detector = NaglEdge(box)
    for threshold, asked in ((0.001, 1), (0.999, 0)):
        detector.set_thresholds(threshold, 0.5)
        command = ("edge", "predict", box, parts, "--out", tmp_path / "out")
        assert nagl(*command) == 0
        assert nagl(*command, "--exit-code") == asked
        assert {row["verdict"] for row in read(tmp_path / "out")} == {"defective" if asked else "good"}
    detector.set_thresholds(0.001, 0.5)
    (parts / "z.png").write_bytes(b"")
    assert nagl("edge", "predict", box, parts, "--out", tmp_path / "out", "--exit-code") == 3


def started(box: Path, images: Path, out: Path, rows: int) -> subprocess.Popen[str]:
    """The command in a process of its own, which has written so many rows."""
    path = {"PYTHONPATH": str(ROOT), "ANOMALIB_NAGL_AUTOLOAD": "0"}
    command = [*COMMAND, str(box), str(images), "--out", str(out)]
    running = subprocess.Popen(
        command, env=os.environ | path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_interrupts,
    )  # fmt: skip
    table, until = out / "predictions.csv", time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        if table.exists() and table.read_text().count("\n") > rows:
            return running
        time.sleep(0.01)
    raise AssertionError(f"not so many rows: {running.communicate()}")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_what_is_done_is_kept(number: str, box: Path, parts: Path, tmp_path: Path) -> None:
    """However the program ends: whole rows, in order, and on Ctrl-C a line that tells how many."""
    for i in range(2000):
        os.link(parts / "0.png", parts / f"more{i:04}.png")
    running = started(box, parts, tmp_path / "out", 3)
    running.send_signal(getattr(signal, number))
    out, err = running.communicate(timeout=60)
    assert running.returncode == {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143}[number], err
    assert (tmp_path / "out/predictions.csv").read_bytes().endswith(b"\n")
    rows = read(tmp_path / "out")
    assert 3 <= len(rows) < 2005
    assert [Path(row["image"]).name for row in rows] == sorted(path.name for path in parts.iterdir())[: len(rows)]
    assert all(None not in row.values() and float(row["score"]) >= 0 for row in rows)
    assert "Traceback" not in out + err
    if number != "SIGKILL":
        assert f"interrupted: {len(rows)} of 2005 images are done: " in err


def test_a_full_disk_is_a_sentence(
    box: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where overlays do not fit either; the rows before it stay."""
    from anomalib_nagl.commands import inspection
    from anomalib_nagl.io import files

    def write(path: Path, fill: object) -> None:
        if path.name == "2.png":
            with files._explained(path.parent, path.name):
                raise OSError(28, "No space left on device")
        atomic(path, fill)

    atomic = files.atomic_write
    monkeypatch.setattr(inspection, "atomic_write", write)
    assert nagl("edge", "predict", box, parts, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "found no room for 2.png in " in error
    assert "Traceback" not in error
    assert [Path(row["image"]).name for row in read(tmp_path / "out")] == ["0.png", "1.png"]


def test_items_and_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "empty").mkdir()
    items = find_items([tmp_path / "a.png", tmp_path / "empty", tmp_path / "none.png", tmp_path / ("n" * 300)])
    assert [item.error is None for item in items] == [True, False, False, False]
    assert all("expected" in str(item.error) for item in items[1:])
    with pytest.raises(EdgeError, match="found no images in"):
        find_items([tmp_path / "empty", tmp_path / "none.png"])
    long = "ä" * 120
    names = overlay_names([Path(name) for name in ("a/x.png", "b/X.jpg", "c/x_2.png", "d/x.png", f"{long}.png")])
    assert names[:4] == ["x.png", "X_2.png", "x_2_2.png", "x_3.png"]
    assert len(os.fsencode(names[4])) <= 204
    many = overlay_names([Path(f"{i}/0001.png") for i in range(20_000)])
    assert len(set(many)) == 20_000
