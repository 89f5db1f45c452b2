"""Inspecting many images, with torch or without: a row and a picture for each, whatever becomes of the others."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.verdicts import REVIEW, Found, Rules, judge
from anomalib_nagl.commands.edge_images import check_out, find_items, overlay_names
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.arrays import as_image, eight_bit, read_image
from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.files import atomic_write
from anomalib_nagl.io.prediction_table import DEFECTIVE, LOOK_AGAIN, PredictionRow, PredictionTable, failed_row

# What a single image can cause, such as memory that does not suffice for it; anything else is a mistake of ours.
OF_AN_IMAGE = (ValueError, OSError, MemoryError, RuntimeError)


class Scorer(Protocol):
    """What inspects an image (H, W, 3), uint8 or floats in [0, 1]; thresholds are on the scale of its scores."""

    threshold: float | None
    pixel_threshold: float | None

    @property
    def remarks(self) -> list[str]:
        """What is to be said of its verdicts before they are read."""

    def __call__(self, pixels: Any) -> Found:
        """Score an image; ValueError where that cannot be done."""

    def panel(self, nearest: NearestReference) -> Any:
        """The picture of a reference (``io.panel.Panel``), or None."""


class Source(NamedTuple):
    """An image to inspect: its name, the path of a file or an array (H, W, 3), or why there is none."""

    name: str
    given: Any
    error: Exception | None = None


class Inspected(NamedTuple):
    """What came of an image: its row and, unless it failed, its picture."""

    row: PredictionRow
    picture: Any = None


class _Waiting(NamedTuple):
    """An image whose row is still to come: its name, and its score, or why there is none."""

    name: str
    scoring: Future[Inspected] | Exception


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide verdicts, and what is written of them."""
    parser.add_argument("--json", action="store_true", help="write predictions.jsonl too, a line of JSON an image")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that fails")
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 when an image is defective, or to be looked at again"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="scores above it are defective; that of the model if left out"
    )
    parser.add_argument(
        "--review", type=float, default=REVIEW, metavar="SCORE",
        help=f"look again at scores this near to the threshold; {REVIEW} if left out",
    )  # fmt: skip
    parser.add_argument(
        "--min-area", type=float, default=0.0, metavar="AREA",
        help="smaller regions do not make a part defective; pixels of the image, or mm2 with --pixel-size",
    )  # fmt: skip
    parser.add_argument("--pixel-size", type=float, metavar="MM", help="width of a pixel in mm")


def rules_of(scorer: Scorer, options: argparse.Namespace) -> Rules:
    """The rules that options ask for; EdgeError for a number that cannot be one."""
    threshold = scorer.threshold if options.threshold is None else options.threshold
    rules = Rules(threshold, scorer.pixel_threshold, options.review, options.min_area, options.pixel_size)
    return rules.check()


class Work(NamedTuple):
    """Images to inspect, and where the picture of each is written."""

    sources: Sequence[Source]
    pictures: Sequence[Path]
    table: Path


def sources_of(images: Iterable[Path]) -> list[Source]:
    """Images and those in folders; EdgeError where there is none."""
    return [Source(item.path.as_posix(), item.path, item.error) for item in find_items(images)]


def plan(images: Iterable[Path], out: Path) -> Work:
    """What is to be done; EdgeError where there is no image, or one would be written over."""
    return place(sources_of(images), out)


def place(sources: Sequence[Source], out: Path) -> Work:
    """Where the pictures of images go; EdgeError where one would be written over an image."""
    names = overlay_names([Path(source.name) for source in sources])
    pictures = [out / name for name in names]
    check_out(out, [source.given for source in sources if isinstance(source.given, Path)], pictures)
    return Work(sources, pictures, out / "predictions.csv")


def run(program: str, work: Work, scorer: Scorer, options: argparse.Namespace, requests: int = 1) -> int:
    """Inspect all images and tell what was found; returns the exit status."""
    rules = rules_of(scorer, options)
    from anomalib_nagl.io.prediction_text import line, total

    rows: list[PredictionRow] = []
    done = written(inspect_all(scorer, work.sources, rules, requests), work.pictures)
    path = work.table
    with PredictionTable(path, path.with_suffix(".jsonl") if options.json else None) as table:
        try:
            for row in _with_progress(done, len(work.sources)):
                table.write(row)
                rows.append(row._replace(regions=()))
                print(line(row))
                if table.failed and options.strict:
                    break
        except KeyboardInterrupt:
            where = f": {path}" if table.rows else ""
            _tell(program, f"interrupted: {table.rows} of {len(work.sources)} images are done{where}")
            return exit_codes.INTERRUPTED
    print(printable(f"{total(rows)}\nTable: {path}\nPictures: {path.parent}"))
    if rules.threshold is None:
        print("This model has no threshold, so there is no verdict: give --threshold, or run edge calibrate.")
    if table.failed:
        many = f"{table.failed} of {table.rows} images failed"
        how = f"stopped at image {table.rows} of {len(work.sources)}" if options.strict else many
        _tell(program, f"{how}, see column error of {path}: {table.first_error}")
    not_good = sum(row.verdict in (DEFECTIVE, LOOK_AGAIN) for row in rows)
    return exit_codes.of_items(table.failed, not_good, options.exit_code)


def _tell(program: str, words: str) -> None:
    print(f"anomalib-nagl {program}: {words}", file=sys.stderr)


def written(inspected: Iterable[Inspected], pictures: Iterable[Path]) -> Iterator[PredictionRow]:
    """Write the picture of each image, and yield its row."""
    for one, path in zip(inspected, pictures, strict=True):
        if one.picture is not None:
            # Packed fast: it is drawn while somebody waits for the next part.
            atomic_write(path, partial(one.picture.save, format="PNG", compress_level=1))
        yield one.row


def inspect_all(
    scorer: Scorer, sources: Iterable[Source], rules: Rules, requests: int = 1, drawn: bool = True
) -> Iterator[Inspected]:
    """What comes of each image, in order: decoded here, ``requests`` of them computed, and ``drawn``, at once."""
    waiting: deque[_Waiting] = deque()
    pool = ThreadPoolExecutor(requests, "inspect")
    try:
        for source in sources:
            waiting.append(_start(source, pool, scorer, rules, drawn))
            if len(waiting) > requests:
                yield _end(waiting.popleft())
        while waiting:
            yield _end(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _start(source: Source, pool: ThreadPoolExecutor, scorer: Scorer, rules: Rules, drawn: bool) -> _Waiting:
    """Decode an image and have it scored."""
    if source.error is not None:
        return _Waiting(source.name, source.error)
    try:
        pixels = read_image(source.given) if isinstance(source.given, Path) else _as_read(source.given)
    except OF_AN_IMAGE as error:
        return _Waiting(source.name, error)
    return _Waiting(source.name, pool.submit(_inspect, scorer, source.name, pixels, rules, drawn))


def _end(waiting: _Waiting) -> Inspected:
    """Wait for the score of an image; its row says why there is none."""
    try:
        if isinstance(waiting.scoring, Exception):
            raise waiting.scoring
        return waiting.scoring.result()
    except OF_AN_IMAGE as error:
        return Inspected(failed_row(waiting.name, error))


def _inspect(scorer: Scorer, name: str, pixels: NDArray[Any], rules: Rules, drawn: bool) -> Inspected:
    found = scorer(pixels)
    row = judge(name, found, (pixels.shape[0], pixels.shape[1]), rules)
    if not drawn:
        return Inspected(row)
    from anomalib_nagl.io.panel import draw
    from anomalib_nagl.io.prediction_text import picture_of

    panel = None if found.nearest is None else scorer.panel(found.nearest)
    beside = [] if panel is None else [panel._replace(title=f"nearest: {panel.title}")]
    shown = picture_of(row, _eight_bit(pixels), found.map, rules.pixel_threshold, rules.band, references=beside)
    return Inspected(row, draw(shown))


def _as_read(given: Any) -> NDArray[Any]:
    """What was given in memory as a file would be read, (H, W, 3)."""
    pixels: NDArray[Any] = as_image(given).transpose(1, 2, 0)
    return pixels


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Decoded pixels (H, W, 3) with 8 bits."""
    return pixels if pixels.dtype == np.uint8 else eight_bit(as_image(pixels)).transpose(1, 2, 0)


def _with_progress(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Show a progress bar below the lines of a terminal where rich is installed; elsewhere the lines will do."""
    try:
        from rich.progress import track
    except ImportError:
        yield from items
    else:
        yield from track(items, "Inspecting", total=total, disable=not sys.stdout.isatty(), transient=True)
