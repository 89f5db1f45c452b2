"""Work on a cluster: the rows and tables of one process, whatever dies meanwhile."""

from __future__ import annotations

import csv
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.commands import CONFIGS, nagl
from support.parts import part, write

from anomalib_nagl.commands.partitions import Detector, inspect_partition, partitions
from anomalib_nagl.evaluation.executors import KILLED, prepare, run_jobs
from anomalib_nagl.io.errors import EdgeError

pytest.importorskip("distributed", reason="distributed is not installed")

from anomalib_nagl.commands.cluster import connected
from anomalib_nagl.commands.listing import listed, opened

pytestmark = pytest.mark.slow  # workers are processes that import torch
IMAGES, DIES_ONCE, DIES_ALWAYS = 24, 3, 5
GABOR = ("--references", "references", "--backbone", "gabor")


def square(job: tuple[Path, int]) -> int:
    """Note that a job is performed; one kills its process the first time, another always."""
    folder, number = job
    before = (folder / str(number)).exists()
    (folder / str(number)).touch()
    if number == DIES_ALWAYS or (number == DIES_ONCE and not before):
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """References, and new images in nested folders, one of them broken."""
    for number in range(4):
        write(tmp_path / f"references/good/{number}.png", part(number)[0])
    image, mask = part(10, True)
    write(tmp_path / "references/defects/hole.png", image)
    write(tmp_path / "references/masks/hole.png", mask)
    for number in range(IMAGES):
        write(tmp_path / f"new/{'ab'[number % 2]}/{number:03}.png", part(100 + number, number % 3 == 0)[0])
    (tmp_path / "new/a/broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on Windows")
def test_a_worker_that_dies_gives_its_jobs_back(tmp_path: Path) -> None:
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), connected("local:2") as cluster:
        jobs = [(tmp_path, number) for number in range(8)]
        found = {one.job[1]: one for one in run_jobs(square, jobs, cluster.factory, cluster.size)}
    assert {number: one.error for number, one in found.items() if one.error} == {DIES_ALWAYS: KILLED}
    assert all(one.value == number**2 for number, one in found.items() if number != DIES_ALWAYS)
    assert set(found) == set(range(8))


def test_partitions_give_the_lines_of_one_process_and_are_resumed(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nagl("inspect", "new", *GABOR, "--json", "--out", "one") == 3
    command = ("inspect", "new", *GABOR, "--json", "--scheduler", "local:2", "--partition", 4, "--out", "two")
    stop = threading.Event()
    killer = threading.Thread(target=_kill_a_worker, args=(bench / "two/partitions", stop))
    killer.start()
    assert nagl(*command) == 3
    stop.set()
    killer.join()
    for name in ("predictions.csv", "predictions.jsonl"):
        assert (bench / "two" / name).read_bytes() == (bench / "one" / name).read_bytes()
    capsys.readouterr()
    parts = sorted((bench / "two/partitions").glob("*.csv"))
    assert len(parts) == -(-(IMAGES + 1) // 4)
    kept = {path: path.stat().st_mtime_ns for path in parts[1:]}
    parts[0].unlink()
    assert nagl(*command) == 3
    said = capsys.readouterr()
    assert f"{len(parts)} partitions, {len(parts) - 1} of them written before." in said.out
    assert f"{IMAGES + 1} images: " in said.out
    assert "1 of 25 images failed" in said.err
    assert {path: path.stat().st_mtime_ns for path in parts[1:]} == kept
    assert (bench / "two/predictions.csv").read_bytes() == (bench / "one/predictions.csv").read_bytes()


def _kill_a_worker(folder: Path, stop: threading.Event) -> None:
    """Kill a worker once a partition is written."""
    while not stop.is_set():
        if any(folder.glob("*.csv")):
            workers = [
                child
                for child in psutil.Process().children(recursive=True)
                if any("spawn_main" in word for word in child.cmdline())
            ]
            if workers:
                workers[0].kill()
            return
        time.sleep(0.02)


def test_other_rules_or_references_are_other_partitions(bench: Path) -> None:
    first = Detector.of(Path("references"), None, "gabor")
    assert Detector.of(Path("references"), None, "gabor") == first
    write(bench / "references/good/more.png", part(50)[0])
    assert Detector.of(Path("references"), None, "gabor") != first
    sources = list(listed(["new"]))
    one, other = (list(partitions(sources, 10, settled)) for settled in ("a", "b"))
    assert [len(partition.images) for partition in one] == [10, 10, 5]
    assert not {partition.name for partition in one} & {partition.name for partition in other}
    assert [partition.name for partition in partitions(sources[:20], 10, "a")] == [one[0].name, one[1].name]


def test_images_in_buckets_are_listed_and_read_like_files(bench: Path) -> None:
    import fsspec

    from anomalib_nagl.bank.verdicts import Rules

    memory = fsspec.filesystem("memory")
    for path in sorted((bench / "new").rglob("*.png")):
        memory.pipe_file(f"/bucket/{path.relative_to(bench).as_posix()}", path.read_bytes())
    memory.pipe_file("/bucket/new/a/.hidden.png", b"")
    memory.pipe_file("/bucket/new/notes.txt", b"")
    local, bucket = list(listed(["new"])), list(listed(["memory://bucket/new"]))
    assert [one.name.removeprefix("memory:///bucket/") for one in bucket] == [one.name for one in local]
    (single,) = listed([bucket[0].name])
    assert opened(single).given.shape == (64, 64, 3)
    detector = Detector.of(Path("references"), None, "gabor")
    rules = Rules(0.5, 0.5).check()
    rows = []
    for sources in (local, bucket):
        (whole,) = partitions(sources, 100, "")
        found = inspect_partition(detector, rules, False, whole).table.decode().splitlines()
        rows.append([line[line.index("new/") :].replace("memory:///bucket/", "") for line in found])
    without = [[line for line in lines if "broken" not in line] for lines in rows]
    assert without[0] == without[1]
    assert len(without[0]) == IMAGES
    for nothing in ("memory://bucket/none", "memory://nowhere"):
        (missing,) = listed([nothing])
        assert "found nothing at" in str(missing.error)
    memory.mkdir("/empty")
    with pytest.raises(EdgeError, match="found no images at memory://empty"):
        list(listed(["memory://empty"]))
    with pytest.raises(EdgeError, match="found no way to list nosuch://bucket"):
        list(listed(["nosuch://bucket"]))


def test_what_is_missing_is_said_in_a_line(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> str:
        assert nagl("inspect", "new", *GABOR, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "expected local:N" in told("--scheduler", "local:none")
    assert "found no Dask scheduler at tcp://127.0.0.1:9" in told("--scheduler", "tcp://127.0.0.1:9")
    assert "expected one of them: partitions end" in told("--scheduler", "local:1", "--strict")
    assert nagl("inspect", "s3://bucket", *GABOR) == 2
    assert "give --scheduler local:1 for images in buckets" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "found no distributed here" in told("--scheduler", "local:1")


def test_tables_of_an_evaluation_are_those_of_one_process(drawn: Path, tmp_path: Path) -> None:
    quick = (
        "evaluate", "--config", CONFIGS / "evaluate" / "quickstart.yaml", "--data", drawn,
        "--domains", "{textures: [cloth], parts: [plate]}", "--targets", "[plate]", "--shots", "[1+0, 1+1]",
        "--reference_seeds", 2, "--protocols", "[fixed]", "--epochs", 1, "--episodes", 8, "--image_size", 64,
        "--metric_size", "null", "--backbone", "gabor", "--models", "[normal_only, nagl]", "--costs", "false",
    )  # fmt: skip
    assert nagl(*quick, "--out", tmp_path / "one") == 0
    assert nagl(*quick, "--out", tmp_path / "two", "--scheduler", "local:2") == 0
    tables = []
    for name in ("one", "two"):
        with (tmp_path / name / "results.csv").open(encoding="utf-8") as file:
            tables.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    assert sum(row["status"] == "done" for row in tables[0]) == 4
    with connected("local:1") as cluster, partial(cluster.factory, setup=prepare)(1) as executor:
        import torch

        assert executor.submit(torch.get_num_threads).result() == 1
