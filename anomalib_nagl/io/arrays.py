"""Images and masks as NumPy arrays, in the one form that everything else computes with."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.values import check_range

THUMBNAIL = 128  # longest side in pixels


def read_image(path: str | Path) -> NDArray[Any]:
    """Read an image file as RGB (H, W, 3); needs Pillow. EdgeError, a ValueError, if the file is no image, or missing.

    It is turned upright; uint8, or float32 in [0, 1] where the file has 16 bits or floats. Grey becomes three equal
    channels, transparency is ignored, of several pages the first is read.
    """
    return decoder().decode_image(path)


def read_mask(path: str | Path, image: str | Path | None = None) -> NDArray[np.bool_]:
    """Read a mask file as (H, W), true where it is not black; needs Pillow. EdgeError if the file is no image.

    It is turned by its own EXIF orientation or, without one, as the file ``image`` of its image is when it has the size
    at which that is stored.
    """
    return decoder().decode_mask(path, image)


def decoder() -> ModuleType:
    """The module that reads files, imported at first use; EdgeError where there is no Pillow."""
    try:
        from anomalib_nagl.io import image_files
    except ImportError as error:
        raise EdgeError(
            "found no Pillow, expected it to read image files: pip install pillow, or hand over the image as an RGB "
            "array"
        ) from error
    return image_files


def as_image(given: Any, source: str = "an array (height, width, channels)") -> NDArray[np.float32]:
    """An image in any usual form as float32 RGB (3, H, W) in [0, 1]; the result shares no memory with what was given.

    Takes the path of a file, a Pillow image, which is turned upright as its file is, or an array (H, W) or (H, W, C) of
    1, 3 or 4 channels, the fourth of which is ignored. Unsigned integers of 8 or 16 bits are divided by their largest
    value, floats have to be in [0, 1]. ``source`` says in errors what was given. EdgeError for anything else.
    """
    if isinstance(given, str | Path):
        return _to_float(read_image(given), str(given))
    if _is_pillow(given):
        return _to_float(decoder().decode_opened(given), f"a Pillow image of mode {given.mode}")
    return _to_float(_as_array(given, "an image", source), source)


def _as_array(given: Any, what: str, source: str) -> NDArray[Any]:
    """What was given as an array of numbers; EdgeError where that is none, such as rows of several lengths."""
    try:
        array = np.asarray(given)
    except Exception as error:  # of the object itself, which may be of anybody
        raise EdgeError(
            f"found {what} that is no array ({source}; {type(given).__name__}: {error}), expected rows of one length "
            "and numbers alone: hand over a NumPy array"
        ) from error
    if array.dtype.kind not in "buifc":
        raise EdgeError(
            f"found {what} of type {array.dtype} ({source}; {type(given).__name__}), expected numbers: hand over the "
            "path of a file, or a NumPy array"
        )
    return array


def _is_pillow(given: object) -> bool:
    """Whether this is a Pillow image: none can be where Pillow was never imported, and a box may do without it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(given, pillow.Image)


def _to_float(array: NDArray[Any], source: str) -> NDArray[np.float32]:
    channels = array.shape[2] if array.ndim == 3 else 1
    whole = array.dtype in (np.uint8, np.uint16)
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise EdgeError(
            f"found an image of shape {array.shape} ({source}), expected a grey value, RGB or RGBA for each pixel: "
            "convert it to RGB"
        )
    if not whole:
        if not np.issubdtype(array.dtype, np.floating):
            raise EdgeError(
                f"found an image of type {array.dtype} ({source}), expected uint8, uint16 or floats in [0, 1]: convert "
                "it to one of them"
            )
        check_range(array, 1, source)
    planes = array.reshape(*array.shape[:2], channels)[..., :3].transpose(2, 0, 1)
    scaled = np.array(planes, dtype=np.float32, order="C")  # always a copy
    if array.dtype == np.uint8:
        scaled *= np.float32(1 / 255)  # a product as in torchvision: the same bits as anomalib's reader
    elif whole:
        scaled /= np.float32(65_535)
    return scaled if channels > 1 else np.repeat(scaled, 3, axis=0)


def as_mask(mask: Any, image: Any, size: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """A mask as float32 0/1 of its image's ``size`` (H, W), which has at least one pixel; EdgeError otherwise.

    ``mask`` is the path of a file, a Pillow image or an array (H, W), non-zero on the defect. A file and a Pillow image
    are turned as ``image`` is, if that is one of them.
    """
    if isinstance(mask, str | Path) or _is_pillow(mask):
        turned = isinstance(image, str | Path) or _is_pillow(image)
        array = decoder().decode_mask(mask, image if turned else None)
    else:
        array = _as_array(mask, "a mask", repr(name))
    check_mask(array, size, name)
    return (array != 0).astype(np.float32)


def as_region(mask: Any) -> NDArray[np.bool_]:
    """Where to look, true in (H, W), of any size: the path of a file, a Pillow image or an array, not zero there.

    EdgeError where that is nowhere, and for what is no mask.
    """
    opened = isinstance(mask, str | Path) or _is_pillow(mask)
    array = decoder().decode_mask(mask, None) if opened else _as_array(mask, "a region", type(mask).__name__)
    if array.ndim != 2 or 0 in array.shape:
        raise EdgeError(
            f"found a region of shape {array.shape}, expected rows and columns: draw it as a grey image, white where "
            "to look"
        )
    if not np.isfinite(array).all() or not (array != 0).any():
        raise EdgeError(
            "found a region that marks nothing, or with values that are no numbers, expected white where to look: draw "
            "it, or take it away to look everywhere"
        )
    return np.asarray(array != 0)


def check_mask(mask: Any, size: tuple[int, ...], name: str) -> None:
    """Raise EdgeError unless a mask, array or tensor, has the size (H, W) of its image and at least one pixel.

    It says of every pixel whether it is marked: numbers that are none do not.
    """
    if tuple(mask.shape) != tuple(size):
        raise EdgeError(
            f"found a mask of size {tuple(mask.shape)} for {name!r}, expected the size of its image {tuple(size)}: "
            "draw the mask on the image itself, without resizing"
        )
    if bool((mask != mask).any()) or any(bool((mask == endless).any()) for endless in (math.inf, -math.inf)):
        raise EdgeError(
            f"found a mask with values that are no numbers (NaN, infinity) for {name!r}, expected 0 where the image is "
            "good and any other number where it is not: give every pixel a number"
        )
    if not bool((mask != 0).any()):
        raise EdgeError(
            f"found an empty mask for abnormal reference {name!r}, expected at least one marked pixel: "
            "mark the defect, leave the mask out, or use the image as a normal reference"
        )


def eight_bit(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image (3, H, W) in [0, 1] as 8-bit pixels."""
    pixels: NDArray[np.uint8] = np.rint(image * np.float32(255)).astype(np.uint8)
    return pixels


def content_hash(image: NDArray[np.float32]) -> str:
    """SHA-256 of the size and the 8-bit pixels of an image (3, H, W) in [0, 1], or of a mask (1, H, W)."""
    pixels = np.ascontiguousarray(eight_bit(image))
    return hashlib.sha256(repr(tuple(int(side) for side in pixels.shape)).encode() + pixels.tobytes()).hexdigest()


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small copy (h, w, 3) of 8-bit pixels (3, H, W) to show to people."""
    step = -(-max(pixels.shape[1:]) // THUMBNAIL)
    return np.ascontiguousarray(pixels[:, ::step, ::step].transpose(1, 2, 0))
