"""Images and masks as a page sends and shows them: bytes that are decoded by the one list of formats."""

from __future__ import annotations

import base64
import binascii
import io
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_nagl.io.arrays import as_image, eight_bit
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.image_files import decode_opened
from anomalib_nagl.io.image_formats import FORMATS, KINDS, MAX_PIXELS

THUMBNAIL, PICTURE = 256, 2048  # longest side in pixels
MASK_START = "data:image/png;base64,"
_DECODERS = threading.Semaphore(2)  # images in the making at once: each may need 2 GB


class TooLarge(EdgeError):
    """An image of more pixels than are decoded."""


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of 8 bits of an image file, upright; EdgeError if it is none of the formats, or too large."""
    with _DECODERS:
        try:
            opened = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
        except Image.DecompressionBombError as error:
            raise TooLarge(f"found an image of too many pixels: {name} ({error}), expected {MAX_PIXELS}") from error
        except Exception as error:  # broken files make decoders raise nearly anything
            raise EdgeError(
                f"found a file that cannot be read as an image: {name} (its content is none of {KINDS}); expected an "
                "image such as PNG or JPEG: replace or remove the file"
            ) from error
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise TooLarge(
                    f"found an image of {opened.width} x {opened.height} pixels: {name}, expected at most "
                    f"{MAX_PIXELS}: cut it into parts, or store it smaller"
                )
            return shown(decode_opened(opened))


def shown(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Decoded pixels (H, W, 3) with 8 bits."""
    return pixels if pixels.dtype == np.uint8 else eight_bit(as_image(pixels)).transpose(1, 2, 0)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size (width, height) with a longer side of at most ``side``, in the same proportions."""
    scale = min(side / max(size), 1)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def jpeg(pixels: NDArray[np.uint8], side: int) -> bytes:
    """A JPEG file of an image (H, W, 3) with a longer side of at most ``side``."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    size = fitted(image.size, side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def grey_png(values: NDArray[Any]) -> bytes:
    """A grey PNG file (h, w) of values from 0 to 1, or of a mask."""
    scaled = np.rint(np.clip(np.asarray(values, np.float32), 0, 1) * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(scaled).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def as_data(png: bytes) -> str:
    """A PNG file as the text in which masks travel."""
    return MASK_START + base64.b64encode(png).decode()


def read_mask(text: object, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) that a page sent for its picture, at the ``size`` (width, height) of the image itself.

    EdgeError for what is no PNG of the picture's size, and for one without a single marked pixel.
    """
    wanted = fitted(size, PICTURE)
    if not isinstance(text, str) or not text.startswith(MASK_START):
        raise EdgeError(f"found a mask {str(text)[:30]!r}, expected a PNG as {MASK_START}...: draw on the picture")
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(text[len(MASK_START) :], validate=True)), formats=("PNG",))
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise EdgeError(
            "found a mask that is no PNG, expected one of the picture's size: draw on the picture"
        ) from error
    with opened:
        if opened.size != wanted:
            raise EdgeError(
                f"found a mask of {opened.size[0]} x {opened.size[1]} pixels, expected {wanted[0]} x {wanted[1]}, the "
                "size of the picture: draw on the picture"
            )
        try:
            marked = np.asarray(opened.convert("L")) > 127
        except (OSError, ValueError, SyntaxError) as error:
            raise EdgeError("found a mask that is cut short, expected a whole PNG: send it again") from error
    if not marked.any():
        raise EdgeError("found an empty mask, expected at least one marked pixel: draw on the picture first")
    return enlarge(marked, size)


def enlarge(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A mask (h, w) at another ``size`` (width, height): every pixel is that of its place."""
    rows, columns = (
        np.arange(target) * source // target for target, source in zip((size[1], size[0]), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
