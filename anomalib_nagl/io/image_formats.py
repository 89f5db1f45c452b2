"""Which image files are read at all: formats by name, by content and by size; without Pillow."""

from __future__ import annotations

import re
from pathlib import Path

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given_paths import open_regular

# Pillow's names of the formats that it may try, and the endings of their files. Of several pages or frames the first is
# read; one of MPO is a JPEG.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "GIF": (".gif",),
}
KINDS = "PNG, JPEG, BMP, TIFF, WebP, PNM, GIF"
# Where Pillow itself refuses. As float32 planes that many pixels take 2 GB: the largest image that a box with 4 GB can
# still resize, and more than line-scan cameras put into one file (8,192 x 20,000).
MAX_PIXELS = 178_956_970
_ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|P[1-7fFy]|GIF8[79]a", re.DOTALL
)
_PROGRAM = re.compile(rb"%!|\xc5\xd0\xd3\xc6")  # PostScript, plain or with a preview


def is_image_file(path: str | Path) -> bool:
    """Whether a file name ends like an image of a format that is read."""
    return Path(path).suffix.lower() in _ENDINGS


def check_format(path: str | Path) -> None:
    """Raise EdgeError unless a file may be handed to a reader that is not ours.

    That is a regular file which is no program and, if it is named like an image, begins like one. Readers of other data
    (depth, arrays) know best what theirs look like.
    """
    try:
        with open_regular(path) as file:
            beginning = file.read(16)
    except OSError as error:
        raise EdgeError(
            f"found a file that cannot be read: {path} ({error}), expected an image: replace or remove the file"
        ) from error
    if _PROGRAM.match(beginning) or (is_image_file(path) and not _BEGINNINGS.match(beginning)):
        raise EdgeError(
            f"found a file that cannot be read as an image: {path} (its content is none of {KINDS}); expected an image "
            "such as PNG or JPEG: replace or remove the file"
        )


def check_pixels(size: tuple[int, int], source: object) -> None:
    """Raise EdgeError for an image of more than ``MAX_PIXELS``; ``size`` is (width, height)."""
    if size[0] * size[1] > MAX_PIXELS:
        raise EdgeError(
            f"found an image of {size[0]} x {size[1]} pixels: {source}, expected at most {MAX_PIXELS}: cut it into "
            "parts, or store it smaller"
        )
