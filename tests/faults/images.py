"""Files that are given as images: foreign formats, broken ones, and what is no regular file."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults import entries
from faults.case import ANSWER, EITHER, REFUSED, Case, World

Make = Callable[[Path], None]
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(%stderr) (w) file closefile showpage\n"


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, kind, **options)
    return file.getvalue()


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data) and None


def huge_png(side: int) -> bytes:
    """A PNG whose header promises more pixels than memory holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


PNG, JPEG = encoded("PNG"), encoded("JPEG")
# Name of the input, how its file is called, how it is made, what is expected of every reader.
FILES: tuple[tuple[str, str, Make, str], ...] = (
    ("PNG", "x.png", content(PNG), ANSWER),
    ("JPEG", "x.jpg", content(JPEG), ANSWER),
    ("BMP", "x.bmp", content(encoded("BMP")), ANSWER),
    ("TIFF", "x.tif", content(encoded("TIFF")), ANSWER),
    ("WebP", "x.webp", content(encoded("WEBP")), ANSWER),
    ("PPM", "x.ppm", content(encoded("PPM")), ANSWER),
    ("GIF", "x.gif", content(encoded("GIF")), ANSWER),
    ("grey PNG", "x.png", content(encoded("PNG", "L")), ANSWER),
    ("PNG with transparency", "x.png", content(encoded("PNG", "RGBA")), ANSWER),
    ("PNG of one bit", "x.png", content(encoded("PNG", "1")), ANSWER),
    ("CMYK JPEG", "x.jpg", content(encoded("JPEG", "CMYK")), ANSWER),
    ("PNG that is called JPEG", "x.jpg", content(PNG), ANSWER),
    ("an empty file", "x.png", content(b""), REFUSED),
    ("text", "x.png", content(b"no image"), REFUSED),
    ("PNG cut in half", "x.png", content(PNG[: len(PNG) // 2]), REFUSED),
    ("JPEG cut in half", "x.jpg", content(JPEG[: len(JPEG) // 2]), REFUSED),
    ("the head of a PNG alone", "x.png", content(PNG[:20]), REFUSED),
    ("PNG of 100,000 x 100,000", "x.png", content(huge_png(100_000)), REFUSED),
    ("PNG of 0 x 0", "x.png", content(huge_png(0)), REFUSED),
    ("PostScript", "x.eps", content(POSTSCRIPT), REFUSED),
    ("PostScript that is called PNG", "x.png", content(POSTSCRIPT), REFUSED),
    ("PDF", "x.png", content(b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n"), REFUSED),
    ("DDS", "x.png", content(b"DDS " + struct.pack("<I", 124) + bytes(120)), REFUSED),
    ("ICO", "x.png", content(encoded("ICO")), REFUSED),
    ("ICNS header", "x.png", content(b"icns" + struct.pack(">I", 16) + bytes(8)), REFUSED),
    ("FLI header", "x.png", content(struct.pack("<IHH", 128, 0xAF11, 1) + bytes(120)), REFUSED),
    ("SPIDER header", "x.png", content(np.ones(256, ">f4").tobytes()), REFUSED),
    ("zip", "x.png", content(b"PK\x03\x04" + bytes(40)), REFUSED),
    ("a folder", "x.png", Path.mkdir, REFUSED),
    ("nothing", "x.png", lambda _: None, REFUSED),
    ("a link to itself", "x.png", to_itself, REFUSED),
    ("a link that leads nowhere", "x.png", lambda path: path.symlink_to("nowhere"), REFUSED),
    ("a device", "x.png", lambda path: path.symlink_to("/dev/zero"), REFUSED),
    ("a pipe", "x.png", fifo, REFUSED),
)
UNREADABLE: dict[str, Any] = {
    "None": None,
    "a number": 5,
    "bytes": b"x.png",
    "the empty text": "",
    "a name of 5,000 characters": "x" * 5000,
    "a name with a zero byte": "a\0b.png",
}


def _written(name: str, make: Make) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        make(world.room / name)
        return world.room / name

    return write


def _among_references(name: str, make: Make) -> Callable[[World], Path]:
    """A folder of references in which one more image lies."""

    def write(world: World) -> Path:
        folder = world.copy(world.references)
        make(folder / "normal" / name)
        return folder

    return write


def cases() -> Iterator[Case]:
    for what, name, make, expected in FILES:
        if sys.platform == "win32" and make in (fifo, to_itself):
            continue
        yield Case("images", f"predict {what}", _written(name, make), entries.predict, expected)
        # As a mask any of them may be of the wrong size.
        as_mask = EITHER if expected == ANSWER else REFUSED
        yield Case("images", f"mask {what}", _written(name, make), entries.teach_mask, as_mask)
        lenient = name.endswith(".eps") or what in ("nothing", "a folder")  # which a folder may leave out
        in_folder = EITHER if lenient else expected
        yield Case("images", f"folder with {what}", _among_references(name, make), entries.scan_folder, in_folder)
    for what, value in UNREADABLE.items():
        yield Case("images", f"predict {what}", lambda _, value=value: value, entries.predict)
    for what, name, make, expected in FILES[::5]:
        if sys.platform == "win32" and make in (fifo, to_itself):
            continue
        yield Case("images", f"command with {what}", _written(name, make), entries.predict_command, expected)
