"""Image files as Pillow decodes them: upright, every kind of pixel on one scale, and no formats but a few.

Pillow knows formats that start a program (PostScript), or whose decoders have seen little use. What a file is, its
content says and not its name: so only decoders of the listed formats are ever asked.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given_paths import open_regular
from anomalib_nagl.io.image_formats import FORMATS, KINDS, check_format, check_pixels, is_image_file
from anomalib_nagl.io.values import check_range

__all__ = [
    "Header",
    "check_format",
    "decode_bytes",
    "decode_image",
    "decode_mask",
    "decode_opened",
    "find_images",
    "is_image_file",
    "opened_image",
    "read_header",
]
_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101  # tags of EXIF and TIFF
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What an image file says of itself: stored (width, height), EXIF orientation 1 to 8, pixel mode of Pillow."""

    size: tuple[int, int]
    orientation: int
    mode: str

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) as people see it."""
        return (self.size[1], self.size[0]) if self.orientation >= 5 else self.size


def _header(image: Image.Image) -> Header:
    return Header(_stored_size(image), _orientation(image), image.mode)


def read_header(path: str | Path) -> Header:
    """Look at an image without decoding it; EdgeError, a ValueError, if the file is none."""
    with _explained(path), opened_image(path) as image:
        return _header(image)


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder but hidden ones, sorted; a folder that is named like an image is looked into.

    A link that leads nowhere, a pipe, and a folder that cannot be looked into are listed: whoever reads them says so.
    """
    closed: list[Path] = []
    walk = os.walk(folder, onerror=lambda error: closed.append(Path(error.filename)))
    named = (Path(place, name) for place, _, names in walk for name in names if not name.startswith("."))
    return sorted([path for path in named if is_image_file(path)] + closed)


def decode_image(path: str | Path) -> NDArray[Any]:
    """Read an image upright, as ``rgb`` returns it; EdgeError if the file is no image, or missing."""
    with _explained(path), opened_image(path) as image:
        return rgb(ImageOps.exif_transpose(image), str(path))


def decode_bytes(content: bytes, name: str) -> NDArray[Any]:
    """The same of the content of a file that lies elsewhere, called ``name`` in errors."""
    with _explained(name), Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as image:
        check_pixels(image.size, name)
        return rgb(ImageOps.exif_transpose(image), name)


def decode_opened(image: Image.Image) -> NDArray[Any]:
    """The same of an image that somebody opened; what was turned already has no orientation any more."""
    source = f"a Pillow image of mode {image.mode}"
    with _explained(getattr(image, "filename", "") or source):
        return rgb(ImageOps.exif_transpose(_loaded(image)), source)


def rgb(image: Image.Image, name: str) -> NDArray[Any]:
    """Pixels (H, W, 3): uint8, or float32 in [0, 1] where the image has 16 bits or floats.

    Grey becomes three equal channels, transparency is ignored, 16-bit values are divided by 65535. EdgeError for values
    that 16 bits cannot hold, and for floats outside [0, 1].
    """
    if image.mode not in (*_SIXTEEN_BIT, "F"):
        return np.asarray(image.convert("RGB"))
    grey = np.asarray(image)
    largest = 1 if image.mode == "F" else 65_535
    check_range(grey, largest, name)
    scaled = grey.astype(np.float32) / np.float32(largest)
    return np.repeat(scaled[..., None], 3, axis=2)


def decode_mask(path: str | Path | Image.Image, image: str | Path | Image.Image | None) -> NDArray[np.bool_]:
    """Read a mask (H, W), true where it is painted; EdgeError if it is no image.

    That is where it is not transparent when some of it is, else where it is not black, and where its labels are not 0
    when all of their colours are black.

    It is turned as its image is: by its own EXIF orientation or, without one, by that of the image when it has the size
    at which the image is stored. Both may be files or opened images.
    """
    with _explained(path, mask=True):
        if isinstance(path, Image.Image):
            return _marked(_turn_mask(_loaded(path), image))
        with opened_image(path) as opened:
            return _marked(_turn_mask(opened, image))


def _marked(mask: Image.Image) -> NDArray[np.bool_]:
    if mask.mode in (*_SIXTEEN_BIT, "F", "L", "1"):
        return np.asarray(mask) > 0
    if mask.has_transparency_data:
        painted: NDArray[np.bool_] = np.asarray(mask.convert("RGBA").getchannel("A")) > 0
        if not painted.all():
            return painted
    coloured: NDArray[np.bool_] = np.asarray(mask.convert("RGB")).max(axis=2) > 0
    return np.asarray(mask) != 0 if mask.mode == "P" and not coloured.any() else coloured


@contextmanager
def opened_image(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """An image file of one of the formats, its pixels not decoded yet; whatever Pillow raises if it is none."""
    # Of an opened file Pillow does not know the name. One that it maps into memory it scrambles (Pillow 13), where it
    # is a grey TIFF that is to be turned by 90 degrees.
    with open_regular(path) as file, Image.open(file, formats=tuple(FORMATS)) as image:
        check_pixels(image.size, path)
        yield image


def _loaded(image: Image.Image) -> Image.Image:
    """An image with its pixels in memory; not mapped, as in ``opened_image``."""
    name = getattr(image, "filename", None)
    kind = image.format or "none"
    if isinstance(image, ImageFile.ImageFile) and kind not in (*FORMATS, "MPO"):
        raise EdgeError(
            f"found a Pillow image of format {kind}, expected {KINDS}, or pixels alone: hand over image.convert('RGB')"
        )
    check_pixels(image.size, name or "a Pillow image")
    if kind != "TIFF" or not name:
        image.load()
        return image
    image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:
        image.filename = name  # type: ignore[attr-defined]
    return image


def _turn_mask(mask: Image.Image, image: str | Path | Image.Image | None) -> Image.Image:
    if _orientation(mask) != 1 or image is None or not (isinstance(image, Image.Image) or Path(image).is_file()):
        return ImageOps.exif_transpose(mask)
    header = _header(image) if isinstance(image, Image.Image) else read_header(image)
    method = _UPRIGHT.get(header.orientation)
    return mask.transpose(method) if method is not None and mask.size == header.size else mask


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(_ORIENTATION)
    return int(found) if found in _UPRIGHT else 1  # Pillow turns nothing for any other value


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before turning; of a TIFF, Pillow names the size that it will have afterwards."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_WIDTH, image.width), tags.get(_HEIGHT, image.height)


@contextmanager
def _explained(source: object, mask: bool = False) -> Iterator[None]:
    """Say of which file a decoder speaks: broken files make them raise nearly anything."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        reason = f"its content is none of {KINDS}" if isinstance(error, UnidentifiedImageError) else error
        if mask:
            raise EdgeError(
                f"found a mask that cannot be read as an image: {source} ({reason}); expected a grey image: replace it"
            ) from error
        raise EdgeError(
            f"found a file that cannot be read as an image: {source} ({reason}); expected an image such as PNG or "
            "JPEG: replace or remove the file"
        ) from error
