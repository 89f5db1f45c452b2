"""``anomalib-nagl edge``: predict with an exported model and change its references, without torch."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.commands import edge_bank
from anomalib_nagl.commands.edge_images import Item, check_out, find_items, overlay_names
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.edge.overlay import draw_overlay
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.arrays import as_image, eight_bit, read_image
from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.files import atomic_write
from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable, failed_row, verdict_of

# What a single image can cause, such as memory that does not suffice for it; anything else is a mistake of ours.
_OF_AN_IMAGE = (ValueError, OSError, MemoryError, RuntimeError)


class Scored(NamedTuple):
    """What came of an image: its row and, unless it failed, its overlay (H, W, 3)."""

    row: PredictionRow
    overlay: NDArray[np.uint8] | None = None


class _Waiting(NamedTuple):
    """An image whose row is still to come: where it lies, and its score, or why there is none."""

    path: Path
    scoring: Future[Scored] | Exception


def main(arguments: Sequence[str]) -> int:
    """Run ``edge`` with these arguments; returns the exit status. ValueError or OSError when the input will not do."""
    options = _parser().parse_args(arguments)
    edge_bank.check_model(options.model)
    run: Callable[[argparse.Namespace], int | None] = options.run
    return run(options) or exit_codes.DONE


def predict(options: argparse.Namespace) -> int:
    """Score every image: a row of the table, and an overlay. Returns the exit status."""
    items = find_items(options.images)
    images = [item.path for item in items]
    overlays = [options.out / name for name in overlay_names(images)]
    check_out(options.out, images, overlays)
    precision = None if options.precision == "device" else options.precision
    detector = NaglEdge(options.model, options.device, precision, options.requests, options.bank)
    path = options.out / "predictions.csv"
    rows = _rows(_score(detector, items, options.requests), overlays)
    with PredictionTable(path, path.with_suffix(".jsonl") if options.json else None) as table:
        try:
            for row in _with_progress(rows, len(items)):
                table.write(row)
                if table.failed and options.strict:
                    break
        except KeyboardInterrupt:
            _tell(f"interrupted: {table.rows} of {len(items)} images are done{f': {path}' if table.rows else ''}")
            return exit_codes.INTERRUPTED
    print(printable(f"{table.rows} images: {path}"))
    if table.failed:
        many = f"{table.failed} of {table.rows} images failed"
        how = f"stopped at image {table.rows} of {len(items)}" if options.strict else many
        _tell(f"{how}, see column error of {path}: {table.first_error}")
    return exit_codes.of_items(table.failed, table.defective, options.exit_code)


def _tell(words: str) -> None:
    print(f"anomalib-nagl edge: {words}", file=sys.stderr)


def _rows(scored: Iterable[Scored], overlays: Sequence[Path]) -> Iterator[PredictionRow]:
    """Write the overlay of each image, and yield its row."""
    for one, path in zip(scored, overlays, strict=True):
        if one.overlay is not None:
            _write_overlay(path, one.overlay)
        yield one.row


def _score(detector: NaglEdge, items: Sequence[Item], requests: int) -> Iterator[Scored]:
    """What comes of each item, in order: decoded here, ``requests`` of them computed at once."""
    waiting: deque[_Waiting] = deque()
    pool = ThreadPoolExecutor(requests, "predict")
    try:
        for item in items:
            waiting.append(_start(item, pool, detector))
            if len(waiting) > requests:
                yield _end(waiting.popleft())
        while waiting:
            yield _end(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _start(item: Item, pool: ThreadPoolExecutor, detector: NaglEdge) -> _Waiting:
    """Decode an image and have it scored."""
    if item.error is not None:
        return _Waiting(item.path, item.error)
    try:
        pixels = read_image(item.path)
    except _OF_AN_IMAGE as error:
        return _Waiting(item.path, error)
    return _Waiting(item.path, pool.submit(_predict, detector, item.path, pixels))


def _end(waiting: _Waiting) -> Scored:
    """Wait for the score of an image; its row says why there is none."""
    try:
        if isinstance(waiting.scoring, Exception):
            raise waiting.scoring
        return waiting.scoring.result()
    except _OF_AN_IMAGE as error:
        return Scored(failed_row(waiting.path, error))


def _predict(detector: NaglEdge, path: Path, pixels: NDArray[Any]) -> Scored:
    found = detector.predict(pixels)
    threshold = None if found.label is None else detector.score_threshold
    row = PredictionRow(path.as_posix(), verdict_of(found.label), found.score, threshold)
    return Scored(row, draw_overlay(_to_show(pixels), found))


def _to_show(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Decoded pixels (H, W, 3) with 8 bits."""
    return pixels if pixels.dtype == np.uint8 else eight_bit(as_image(pixels)).transpose(1, 2, 0)


def _parser() -> Parser:
    parser = Parser(prog="anomalib-nagl edge", description="Predict with an exported model and change its references.")
    scoring, *others = parser.add_commands(
        ("predict", "score images into predictions.csv and overlays"), *edge_bank.COMMANDS
    )
    scoring.set_defaults(run=predict)
    scoring.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export")
    scoring.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="images, or folders of images")
    scoring.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the overlays")
    scoring.add_argument("--json", action="store_true", help="write predictions.jsonl too, a line of JSON an image")
    scoring.add_argument("--strict", action="store_true", help="stop at the first image that fails")
    scoring.add_argument("--exit-code", action="store_true", help="exit with 1 when an image is defective")
    scoring.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16", "device"])
    scoring.add_argument("--device", default="CPU", help="device of OpenVINO, such as CPU or GPU")
    scoring.add_argument("--requests", type=int, default=1, metavar="COUNT", help="images computed at once")
    scoring.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
    edge_bank.describe(others)
    return parser


def _with_progress(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Show a progress bar with rich, or count on stderr where it is not installed."""
    try:
        from rich.progress import track
    except ImportError:
        for count, item in enumerate(items, 1):
            yield item
            print(f"\r{count}/{total}", end="\n" if count == total else "", file=sys.stderr, flush=True)
    else:
        yield from track(items, "Predicting", total=total)


def _write_overlay(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
