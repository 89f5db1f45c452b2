"""``edge watch``: files that arrive are scored once, whatever ends the program, and one bad file ends nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.commands import nagl
from support.environments import ROOT
from support.exported import picture, pixels
from support.signals import hear_interrupts

from anomalib_nagl.bank.verdicts import Rules
from anomalib_nagl.commands.edge_watch import split_program
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.arrivals import Arrivals
from anomalib_nagl.edge.watching import Watcher
from anomalib_nagl.io.prediction_log import PredictionLog

COMMAND = [sys.executable, "-W", "ignore", "-m", "anomalib_nagl.cli", "edge", "watch"]
QUICK = ("--still", "0.2", "--poll", "0.1", "--heartbeat", "0.2")


def read(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def put(folder: Path, number: int, age: float = 60.0) -> Path:
    """An image that is moved into a folder, with a defect if the number is odd."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.png"
    Image.fromarray(pixels(picture((60, 50), number, bool(number % 2)))).save(folder / ".part.png")
    os.utime(folder / ".part.png", (time.time() - age,) * 2)
    return (folder / ".part.png").rename(path)


def wait_for(said: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not said():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command as a terminal does; what a test leaves running is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        words = [*COMMAND, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(words, cwd=ROOT, preexec_fn=hear_interrupts, **pipes))
        return started[-1]

    yield run
    for one in started:
        one.kill()
        one.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_next_start_scores_nothing_twice(
    sign: int, box: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    parts, out, said = tmp_path / "parts", tmp_path / "out", tmp_path / "said"
    for number in range(3):
        put(parts, number)
    (parts / "broken.png").write_bytes((parts / "1.png").read_bytes()[:300])
    note = "import sys; open(sys.argv[1], 'a').write(repr(sys.argv[2:]) + chr(10))"
    program = ("--", sys.executable, "-c", note, said, "{path}", "{verdict}", "a b;$(touch x)")
    running = start(box, parts, "--out", out, *QUICK, *program)
    wait_for(lambda: len(lines(out / "predictions.csv")) == 5, running)
    put(parts, 3)
    wait_for(lambda: len(lines(said)) == 5, running)
    beat = json.loads((out / "heartbeat.json").read_text())
    assert beat["state"] == "running"
    assert beat["pid"] == running.pid
    running.send_signal(sign)
    told, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "5 images scored, 1 failed" in told
    beat = json.loads((out / "heartbeat.json").read_text())
    assert (beat["state"], beat["images"], beat["failed"], beat["waiting"]) == ("stopped", 5, 1, 0)
    assert 0 < beat["seconds_p95"] < 60
    assert beat["images_per_minute"] > 0
    assert sorted(eval(line)[1] for line in lines(said)).count("failed") == 1  # the program's own repr
    assert all(eval(line)[2] == "a b;$(touch x)" for line in lines(said))

    put(parts, 4)
    put(parts, 0, age=30)  # the same name, written again
    again = start(box, parts, "--out", out, *QUICK, *program)
    wait_for(lambda: len(lines(out / "predictions.csv")) == 8, again)
    again.send_signal(sign)
    assert "2 images scored" in again.communicate(timeout=60)[0]
    rows = read(out)
    names = [Path(row["image"]).name for row in rows]
    assert sorted(names) == ["0.png", "0.png", "1.png", "2.png", "3.png", "4.png", "broken.png"]
    detector = NaglEdge(box)
    for row in rows:
        if row["error"]:
            assert row["image"].endswith("broken.png")
        else:
            assert float(row["score"]) == pytest.approx(detector.predict(row["image"]).score, abs=2e-6)
    assert [json.loads(line)["image"] for line in lines(out / "predictions.jsonl")] == [row["image"] for row in rows]


@pytest.mark.slow
def test_a_killed_one_goes_on(box: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    parts, out, moved = tmp_path / "parts", tmp_path / "out", tmp_path / "moved"
    for number in range(6):
        put(parts, number)
    running = start(box, parts, "--out", out, *QUICK, "--move-by-verdict", moved)
    wait_for(lambda: len(lines(out / "predictions.jsonl")) >= 2, running)
    running.kill()
    running.communicate()
    assert nagl("edge", "watch", box, parts, "--out", out, "--still", 0.1, "--once", "--move-by-verdict", moved) == 0
    rows = read(out)
    assert sorted(Path(row["image"]).name for row in rows) == [f"{number}.png" for number in range(6)]
    assert not list(parts.glob("*.png"))
    for row in rows:
        assert (moved / row["verdict"].replace(" ", "_") / Path(row["image"]).name).is_file()


@pytest.fixture
def watching(box: Path, tmp_path: Path) -> Iterator[Watcher]:
    """A watcher of ``parts`` that takes files at once."""
    (tmp_path / "parts").mkdir()
    with PredictionLog(tmp_path / "out", 1_000_000) as log:
        detector, told = NaglEdge(box), []
        rules = lambda one: Rules(one.score_threshold, one.map_threshold)  # noqa: E731
        moves = {"failed": tmp_path / "failed"}
        found = Watcher(detector, Arrivals(tmp_path / "parts", 0.0), log, rules, moves, tell=told.append)
        found.told = told
        yield found


def step(watcher: Watcher) -> int:
    return watcher.step(watcher.arrivals.whole(), lambda: False, lambda: None)


def test_whatever_a_file_does_the_next_one_is_scored(
    watching: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "parts"
    (parts / "0_empty.png").touch()
    (parts / "1_text.png").write_text("%!PS")
    put(parts, 7)
    put(parts, 8)
    encode = watching.detector.encode
    shapes = []

    def trip(pixels: object) -> object:
        shapes.append(1)
        if len(shapes) == 1:
            raise KeyError("nobody foresaw this")
        return encode(pixels)

    monkeypatch.setattr(watching.detector, "encode", trip)
    assert step(watching) == 4
    rows = {Path(row["image"]).name: row for row in read(tmp_path / "out")}
    assert [name for name, row in rows.items() if row["error"]] == ["7.png", "0_empty.png", "1_text.png"]
    assert rows["8.png"]["verdict"]
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == ["0_empty.png", "1_text.png", "7.png"]
    put(parts, 7)
    assert step(watching) == 1
    assert step(watching) == 0


def test_a_file_is_never_written_over_and_stays_where_it_cannot_be_moved(watching: Watcher, tmp_path: Path) -> None:
    for content in ("a", "b"):
        (tmp_path / "parts/x.png").write_text(content)
        assert step(watching) == 1
    assert [path.read_text() for path in sorted((tmp_path / "failed").iterdir())] == ["a", "b"]
    shutil.rmtree(tmp_path / "failed")
    (tmp_path / "failed").write_text("no folder")
    (tmp_path / "parts/x.png").write_text("c")
    assert step(watching) == 1
    assert (tmp_path / "parts/x.png").read_text() == "c"
    assert "it stays where it is" in watching.told[-1]


def test_a_lesson_of_somebody_else_counts_at_once(watching: Watcher, box: Path, tmp_path: Path) -> None:
    put(tmp_path / "parts", 1)
    step(watching)
    teaching = NaglEdge(box)
    teaching.add_normal(pixels(picture((60, 50), 1, True)), "fine")
    teaching.set_thresholds(image=0.9)
    put(tmp_path / "parts", 1, age=20)
    step(watching)
    rows = read(tmp_path / "out")
    assert [row["threshold"] for row in rows] == ["0.500000", "0.900000"]
    assert rows[0]["score"] != rows[1]["score"]
    assert rows[1]["nearest_reference"] == "fine"


def test_drift_is_told_once_a_day_and_kept(watching: Watcher, box: Path, tmp_path: Path) -> None:
    teaching = NaglEdge(box)
    for number in (2, 4):
        teaching.add_normal(pixels(picture((60, 50), number)), f"n{number}")
    dark = Image.new("RGB", (50, 60))
    for number in range(25):
        dark.save(tmp_path / f"parts/{number}.png")
    assert step(watching) == 25
    watching.beat()
    beat = json.loads((tmp_path / "out/heartbeat.json").read_text())
    assert beat["drift"]["images"] == 25
    assert beat["drift"]["median"] < beat["drift"]["allowed"][0] < beat["drift"]["references"][1]
    assert len(watching.told) == 1
    assert "less like the normal references" in watching.told[0]
    assert "less like the normal references" in beat["drift"]["sentence"]
    with PredictionLog(tmp_path / "out", 1_000_000) as log:
        again = Watcher(watching.detector, watching.arrivals, log, lambda one: Rules(0.5, 0.5))
    assert again.drift.facts(beat["drift"]["day"])["images"] == 25


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--move", "bad", "x"), "found --move bad, expected one of good, defective, look-again, failed"),
        (("--still", "0"), "found --still 0.0, expected a number above 0"),
        (("--keep", "-1"), "found --keep -1, expected 0 or more"),
        (("--threshold", "nan"), "found --threshold nan"),
    ],
)
def test_what_cannot_be_is_said(
    extra: tuple[str, ...], words: str, box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parts").mkdir()
    assert nagl("edge", "watch", box, tmp_path / "parts", "--out", tmp_path / "out", "--once", *extra) == 2
    assert words in capsys.readouterr().err
    assert nagl("edge", "watch", box, tmp_path / "nowhere", "--out", tmp_path / "out", "--once") == 2
    assert "found no folder at" in capsys.readouterr().err


def test_what_follows_two_dashes_is_the_programs() -> None:
    assert split_program(["watch", "m", "--", "run", "--verbose", "--"]) == (["watch", "m"], ["run", "--verbose", "--"])
    assert split_program(["predict", "m", "--", "-x.png"]) == (["predict", "m", "--", "-x.png"], [])
