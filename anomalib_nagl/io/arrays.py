"""Pictures and masks as numpy arrays, the way the exported graphs take them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.errors import EdgeError

THUMBNAIL = 128  # longest side in pixels


def read_image(path: str | Path) -> NDArray[Any]:
    """Read a picture file as RGB (H, W, 3), as torch's side does; needs Pillow. EdgeError if it is no picture.

    It is turned upright; uint8, or float32 in [0, 1] where the file has 16 bits or floats. Transparency is ignored.
    """
    return decoder().decode_image(path)


def read_mask(path: str | Path, image: str | Path | None = None) -> NDArray[np.bool_]:
    """Read a mask file as (H, W), true where it is not black, as torch's side does; needs Pillow.

    It is turned by its own EXIF orientation or, without one, as the file ``image`` of its picture is when it has the
    size at which that is stored. EdgeError if it is no picture.
    """
    return decoder().decode_mask(path, image)


def decoder() -> ModuleType:
    """The module that reads files, imported at first use; EdgeError where there is no Pillow."""
    try:
        from anomalib_nagl.io import image_files
    except ImportError as error:
        raise EdgeError(
            "found no Pillow, expected it to read picture files: pip install pillow, or hand over the picture as an "
            "RGB array"
        ) from error
    return image_files


def as_picture(image: Any) -> NDArray[np.float32]:
    """Bring RGB (H, W, 3), uint8 or float in [0, 1], or the path of a file to float32 (3, H, W) in [0, 1]."""
    array = read_image(image) if isinstance(image, str | Path) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise EdgeError(f"found a picture of shape {array.shape}, expected RGB (height, width, 3): convert it to RGB")
    if array.dtype == np.uint8:
        scaled = array.astype(np.float32) * np.float32(1 / 255)  # a product as in torchvision: the same bits
    elif np.issubdtype(array.dtype, np.floating):
        scaled = array.astype(np.float32)
        if not (scaled.min() >= 0 and scaled.max() <= 1):
            raise EdgeError(
                f"found a picture of floats from {scaled.min()} to {scaled.max()}, expected [0, 1]: divide by 255"
            )
    else:
        raise EdgeError(
            f"found a picture of type {array.dtype}, expected uint8 or float in [0, 1]: divide by its largest value"
        )
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def as_mask(mask: Any, image: Any, picture: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Bring a mask (H, W), non-zero on the defect, or the path of a file to float32 0/1 (H, W).

    ``picture`` (3, H, W) is what ``as_picture`` made of ``image``; a mask file is turned as a file ``image`` is.
    """
    if isinstance(mask, str | Path):
        array = read_mask(mask, image if isinstance(image, str | Path) else None)
    else:
        array = np.asarray(mask) != 0
    if array.shape != picture.shape[1:]:
        raise EdgeError(
            f"found a mask of size {array.shape} for {name!r}, expected the size of its picture {picture.shape[1:]}: "
            "draw the mask on the picture itself, without resizing"
        )
    if not array.any():
        raise EdgeError(
            f"found an empty mask for abnormal reference {name!r}, expected at least one marked pixel: "
            "mark the defect, leave the mask out, or use the picture as a normal reference"
        )
    return array.astype(np.float32)


def eight_bit(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture (3, H, W) in [0, 1] as 8-bit pixels."""
    pixels: NDArray[np.uint8] = np.rint(picture * np.float32(255)).astype(np.uint8)
    return pixels


def content_hash(picture: NDArray[np.float32]) -> str:
    """SHA-256 of the size and the 8-bit pixels of a picture (3, H, W); torch's side computes the same."""
    pixels = np.ascontiguousarray(eight_bit(picture))
    return hashlib.sha256(repr(tuple(int(side) for side in pixels.shape)).encode() + pixels.tobytes()).hexdigest()


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small copy (h, w, 3) of 8-bit pixels (3, H, W) to show to people."""
    step = -(-max(pixels.shape[1:]) // THUMBNAIL)
    return np.ascontiguousarray(pixels[:, ::step, ::step].transpose(1, 2, 0))
