"""``anomalib-nagl edge``: predict with an exported model and change its references, without torch."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.commands import edge_bank
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.detector import NaglEdge, Prediction
from anomalib_nagl.edge.overlay import draw_overlay
from anomalib_nagl.io.arrays import as_image, decoder, eight_bit, read_image
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write, atomic_write_bytes


class Row(NamedTuple):
    """A line of ``predictions.csv``."""

    image: str
    score: str
    label: str
    map_max: str
    overlay: str


def main(arguments: Sequence[str]) -> int:
    """Run ``edge`` with these arguments; ValueError or OSError when the input will not do."""
    options = _parser().parse_args(arguments)
    edge_bank.check_model(options.model)
    run: Callable[[argparse.Namespace], None] = options.run
    run(options)
    return 0


def predict(options: argparse.Namespace) -> None:
    """Score every image: a row of the table, and an overlay."""
    images = list(_images(options.images))
    overlays = [options.out / name for name in _overlay_names(images)]
    _check_out(options.out, images, overlays)
    precision = None if options.precision == "device" else options.precision
    detector = NaglEdge(options.model, options.device, precision, options.requests, options.bank)
    rows = _rows(detector, images, overlays)
    _write_table(options.out / "predictions.csv", _with_progress(rows, len(images)))
    print(f"{len(images)} images: {options.out / 'predictions.csv'}")


def _rows(detector: NaglEdge, images: Sequence[Path], overlays: Sequence[Path]) -> Iterator[Row]:
    """Score images as they are asked for, write their overlays, and yield their rows."""
    # Decoded once: what the detector takes waits here for its overlay, as many as there are requests.
    waiting: deque[NDArray[Any]] = deque()

    def decoded() -> Iterator[NDArray[Any]]:
        for path in images:
            waiting.append(read_image(path))
            yield waiting[-1]

    for path, overlay, found in zip(images, overlays, detector.predict_all(decoded()), strict=True):
        _write_overlay(overlay, _to_show(waiting.popleft()), found)
        label = "" if found.label is None else str(int(found.label))
        yield Row(path.as_posix(), f"{found.score:.6f}", label, f"{found.map.max():.6f}", overlay.name)


def _write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write the table in one step, after the last row."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    atomic_write_bytes(path, table.getvalue().encode())


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
    scoring.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16", "device"])
    scoring.add_argument("--device", default="CPU", help="device of OpenVINO, such as CPU or GPU")
    scoring.add_argument("--requests", type=int, default=1, metavar="COUNT", help="images computed at once")
    scoring.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
    edge_bank.describe(others)
    return parser


def _images(paths: Iterable[Path]) -> Iterator[Path]:
    is_image_file = decoder().is_image_file
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if is_image_file(file) and not file.name.startswith("."))
            if not found:
                raise EdgeError(f"found no images in {path}, expected files such as PNG or JPEG: check the folder")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise EdgeError(f"found nothing at {path}, expected an image or a folder of images: check the path")


def _overlay_names(images: Sequence[Path]) -> list[str]:
    """A file name for every overlay; images of one name in several folders get numbers."""
    taken: set[str] = set()
    names = []
    for path in images:
        name, count = f"{path.stem}.png", 2
        while name.lower() in taken:
            name, count = f"{path.stem}_{count}.png", count + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _check_out(out: Path, images: Sequence[Path], overlays: Sequence[Path]) -> None:
    """Raise EdgeError if the folder of the results is none, or an overlay would be written over one of the images."""
    if out.exists() and not out.is_dir():
        raise EdgeError(f"found a file at {out}, expected a folder for the results: choose another --out")
    given = {path.resolve() for path in images}
    for overlay in overlays:
        if overlay.resolve() in given:
            raise EdgeError(
                f"found the image {overlay} in the folder of the results, which would overwrite it; expected a "
                "folder without the images that are predicted: choose another --out"
            )


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


def _write_overlay(path: Path, image: NDArray[np.uint8], prediction: Prediction) -> None:
    from PIL import Image

    overlay = Image.fromarray(draw_overlay(image, prediction))
    atomic_write(path, lambda file: overlay.save(file, format="PNG"))
