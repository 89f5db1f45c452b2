"""``anomalib-nagl edge``: predict with an exported model and change its references, without torch."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.edge.detector import NaglEdge, Prediction
from anomalib_nagl.io.arrays import as_picture, decoder, eight_bit
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write, atomic_write_bytes

RED = np.array([255, 0, 0], dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it succeeded, 2 with a line on stderr when the input will not do."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except (EdgeError, OSError) as error:
        print(f"anomalib-nagl edge: {error}", file=sys.stderr)
        return 2
    return 0


def predict(options: argparse.Namespace) -> None:
    """Score pictures into ``predictions.csv`` and overlays."""
    pictures = list(_pictures(options.images))
    names = _overlay_names(pictures)
    _spare(pictures, [options.out / name for name in names])
    precision = None if options.precision == "device" else options.precision
    detector = NaglEdge(options.model, options.device, precision, options.requests)
    options.out.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["image", "score", "label", "map_max", "overlay"])
    results = zip(pictures, names, detector.predict_all(pictures), strict=True)
    for path, name, found in _with_progress(results, len(pictures)):
        _write_overlay(options.out / name, eight_bit(as_picture(path)).transpose(1, 2, 0), found)
        label = "" if found.label is None else int(found.label)
        writer.writerow([path.as_posix(), f"{found.score:.6f}", label, f"{found.map.max():.6f}", name])
    atomic_write_bytes(options.out / "predictions.csv", table.getvalue().encode())
    print(f"{len(pictures)} pictures: {options.out / 'predictions.csv'}")


def add_defect(options: argparse.Namespace) -> None:
    """Learn a defect, and keep it in the reference pack beside the model."""
    detector = NaglEdge(options.model)
    detector.add_abnormal(options.image, options.mask, options.name, options.type)
    _keep(detector, options.model)


def remove(options: argparse.Namespace) -> None:
    """Forget a reference, also in the pack beside the model."""
    detector = NaglEdge(options.model)
    detector.remove(options.name)
    _keep(detector, options.model)


def show(options: argparse.Namespace) -> None:
    """List the references of a model."""
    for one in NaglEdge(options.model).references:
        print(f"{one.kind}\t{one.name}\t{one.defect_type}\t{one.sha256[:12]}")


def _keep(detector: NaglEdge, model: Path) -> None:
    pack = model.with_name("references.safetensors")
    detector.save(pack)
    print(f"{len(detector.references)} references: {pack}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anomalib-nagl edge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").strip()
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export")
        return added

    scoring = command("predict", predict)
    scoring.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="pictures, or folders of pictures")
    scoring.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the overlays")
    scoring.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16", "device"])
    scoring.add_argument("--device", default="CPU")
    scoring.add_argument("--requests", type=int, default=1, help="pictures computed at once")
    adding = command("add-defect", add_defect)
    adding.add_argument("--image", type=Path, required=True, help="picture of the defect")
    adding.add_argument("--mask", type=Path, help="white on the defect; without it the most deviating patches count")
    adding.add_argument("--name", required=True, help="name of the reference")
    adding.add_argument("--type", default="defect", help="kind of defect")
    command("remove", remove).add_argument("--name", required=True, help="name of the reference")
    command("list", show)
    return parser


def _pictures(paths: Iterable[Path]) -> Iterator[Path]:
    is_picture = decoder().is_picture
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if is_picture(file) and not file.name.startswith("."))
            if not found:
                raise EdgeError(f"found no pictures in {path}, expected files such as PNG or JPEG: check the folder")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise EdgeError(f"found nothing at {path}, expected a picture or a folder of pictures: check the path")


def _overlay_names(pictures: Sequence[Path]) -> list[str]:
    """A file name for every overlay; pictures of one name in several folders get numbers."""
    taken: set[str] = set()
    names = []
    for path in pictures:
        name, count = f"{path.stem}.png", 2
        while name.lower() in taken:
            name, count = f"{path.stem}_{count}.png", count + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _spare(pictures: Sequence[Path], overlays: Sequence[Path]) -> None:
    """Raise EdgeError if an overlay would be written over one of the pictures."""
    given = {path.resolve() for path in pictures}
    for overlay in overlays:
        if overlay.resolve() in given:
            raise EdgeError(
                f"found the picture {overlay} in the folder of the results, which would overwrite it; expected a "
                "folder without the pictures that are predicted: choose another --out"
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


def _write_overlay(path: Path, picture: NDArray[np.uint8], found: Prediction) -> None:
    """Write a picture (H, W, 3) with its map in red, and white where the mask ends."""
    from PIL import Image

    height, width = picture.shape[:2]
    heat = Image.fromarray((found.map.clip(0, 1) * 255).astype(np.uint8)).resize((width, height))
    strength = np.asarray(heat, dtype=np.float32)[..., None] / 255 * 0.6
    drawn = picture * (1 - strength) + RED * strength
    if found.mask is not None:
        mask = np.asarray(Image.fromarray(found.mask.astype(np.uint8) * 255).resize((width, height))) > 127
        drawn[_outline(mask)] = 255
    result = Image.fromarray(drawn.astype(np.uint8))
    atomic_write(path, lambda file: result.save(file, format="PNG"))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask (H, W) that have a neighbour outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline
