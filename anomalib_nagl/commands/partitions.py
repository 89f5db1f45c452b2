"""Inspecting very many images on a cluster: in partitions, each written whole or not at all, and resumed."""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from anomalib_nagl.bank.verdicts import Rules
from anomalib_nagl.commands import inspection
from anomalib_nagl.commands.cluster import Cluster, connected
from anomalib_nagl.commands.inspection import Scorer, Source
from anomalib_nagl.commands.listing import listed, opened
from anomalib_nagl.evaluation.executors import Outcome, run_jobs
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import EdgeError, printable
from anomalib_nagl.io.files import atomic_write, atomic_write_bytes, file_hash
from anomalib_nagl.io.prediction_table import DEFECTIVE, HEADER, LOOK_AGAIN, csv_line, json_line, texts_of
from anomalib_nagl.io.prediction_text import FAILED, kind, total_of

FOLDER = "partitions"
AHEAD = 2  # partitions of each worker that are handed out: one to work at, one to go on with


class Detector(NamedTuple):
    """What inspects, as each worker loads it: paths of references or of a model, and a hash of what is in them."""

    references: str | None
    model: str | None
    backbone: str | None
    content: str

    @classmethod
    def of(cls, references: Path | None, model: Path | None, backbone: str | None) -> Detector:
        """Look at the files."""
        given = references or model
        assert given is not None  # the command has checked it
        names = None if references is None else str(references), None if model is None else str(model)
        return cls(*names, backbone, _content(given))


def _content(path: Path) -> str:
    """A hash of a file, of an export with all that lies beside it, or of a folder; journals of banks come and go."""
    place, pattern = (path.parent, f"{path.stem}.*") if path.is_file() else (path, "**/*")
    digest = hashlib.sha256()
    for file in sorted(place.glob(pattern)):
        if file.is_file() and not file.name.endswith(("-wal", "-shm", "-journal", ".lock")):
            digest.update(f"{file.relative_to(place).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


class Partition(NamedTuple):
    """Images that are inspected by one worker, each with its address and the reason why it cannot be read, if any.

    ``key`` tells it from a partition of other images, or by another detector or other rules.
    """

    number: int
    key: str
    images: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number:08}-{self.key}"


class Rows(NamedTuple):
    """Lines of a partition: as CSV, and as JSON if asked for."""

    table: bytes
    json: bytes


def partitions(sources: Iterable[Source], size: int, settled: str) -> Iterator[Partition]:
    """Images in order, so many in each partition; ``settled`` are the facts that decide its rows."""
    rest = iter(sources)
    number = 0
    while taken := tuple((one.name, str(one.error or "")) for one in islice(rest, size)):
        key = hashlib.sha256(repr((settled, taken)).encode()).hexdigest()[:16]
        yield Partition(number, key, taken)
        number += 1


def inspect_partition(detector: Detector, rules: Rules, json: bool, partition: Partition) -> Rows:
    """What one process of a whole folder writes of these images, line by line."""
    scorer = _scorer(detector)
    sources = (opened(_source(name, error)) for name, error in partition.images)
    rows = [one.row for one in inspection.inspect_all(scorer, sources, rules, drawn=False)]
    return Rows(b"".join(csv_line(texts_of(row)) for row in rows), b"".join(map(json_line, rows)) if json else b"")


def _source(name: str, error: str) -> Source:
    return Source(name, name if "://" in name else Path(name), EdgeError(error) if error else None)


@lru_cache(maxsize=1)
def _scorer(detector: Detector) -> Scorer:
    from anomalib_nagl.commands.inspect import CHECKPOINTS, load_scorer

    if detector.model is None or detector.model.endswith(CHECKPOINTS):
        import torch

        torch.set_num_threads(1)  # the other cores are those of other workers
    return load_scorer(detector.references, detector.model, detector.backbone)


def run(options: argparse.Namespace, scorer: Scorer) -> int:
    """Inspect all images that options name on a cluster; returns the exit status."""
    if options.partition < 1:
        raise EdgeError(f"found --partition {options.partition}, expected at least 1: that many images go together")
    if options.strict:
        raise EdgeError("found --strict beside --scheduler, expected one of them: partitions end in any order")
    rules = inspection.rules_of(scorer, options)
    detector = Detector.of(options.references, options.model, options.backbone)
    folder = options.out / FOLDER
    if options.out.exists() and not options.out.is_dir():
        raise EdgeError(f"found a file at {options.out}, expected a folder for the results: choose another --out")
    settled = repr((detector[2:], tuple(rules), options.json, version("anomalib-nagl")))
    names: list[str] = []
    waiting = _noted(partitions(listed(options.images), options.partition, settled), folder, names)
    work = partial(inspect_partition, detector, rules, options.json)
    failed: list[str] = []
    done = 0
    try:
        with connected(options.scheduler) as cluster:
            for outcome in _performed(work, waiting, cluster):
                if outcome.error is not None:
                    failed.append(f"partition {outcome.job.number} ({outcome.job.images[0][0]} ...): {outcome.error}")
                    continue
                _write(folder, outcome.job, outcome.value, options.json)
                done += 1
    except KeyboardInterrupt:
        _tell(f"interrupted: {done} partitions were written; the same command goes on")
        return exit_codes.INTERRUPTED
    if failed:
        _tell(f"{len(failed)} of {len(names)} partitions failed; the same command tries them again: {failed[0]}")
        return exit_codes.FAILED_ITEMS
    print(f"{len(names)} partitions, {len(names) - done} of them written before.")
    return _conclude(options, folder, names)


def _performed(work: partial[Rows], waiting: Iterator[Partition], cluster: Cluster) -> Iterator[Outcome[Partition]]:
    return run_jobs(work, waiting, cluster.factory, AHEAD * cluster.size)


def _noted(every: Iterable[Partition], folder: Path, names: list[str]) -> Iterator[Partition]:
    """Note the name of each partition, and yield those that are not written yet."""
    for partition in every:
        names.append(partition.name)
        if not (folder / f"{partition.name}.csv").exists():
            yield partition


def _write(folder: Path, partition: Partition, rows: Rows, json: bool) -> None:
    """Put the files there in one step each; that of the table comes last and says that the partition is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    if json:
        atomic_write_bytes(folder / f"{partition.name}.jsonl", rows.json)
    atomic_write_bytes(folder / f"{partition.name}.csv", rows.table)


def _conclude(options: argparse.Namespace, folder: Path, names: Sequence[str]) -> int:
    """Make one table of all partitions, and tell what is in it."""
    table = options.out / "predictions.csv"
    atomic_write(table, partial(_join, HEADER, [folder / f"{name}.csv" for name in names]))
    if options.json:
        atomic_write(table.with_suffix(".jsonl"), partial(_join, b"", [folder / f"{name}.jsonl" for name in names]))
    first_error, counts = "", Counter[str]()
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            counts[kind(row["verdict"], row["error"])] += 1
            first_error = first_error or row["error"]
    print(printable(f"{total_of(counts)}\nTable: {table}\nPictures: none; inspect those of interest alone"))
    if first_error:
        _tell(f"{counts[FAILED]} of {counts.total()} images failed, see column error of {table}: {first_error}")
    return exit_codes.of_items(counts[FAILED], counts[DEFECTIVE] + counts[LOOK_AGAIN], options.exit_code)


def _join(head: bytes, parts: Sequence[Path], file: BinaryIO) -> None:
    file.write(head)
    for part in parts:
        with part.open("rb") as opened_part:
            shutil.copyfileobj(opened_part, file)


def _tell(words: str) -> None:
    print(printable(f"anomalib-nagl inspect: {words}"), file=sys.stderr)
