"""Pictures and masks as numpy arrays, the way the exported graphs take them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.edge.errors import EdgeError

THUMBNAIL = 128  # longest side in pixels


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read a picture file as RGB (H, W, 3), as torch's side does; needs Pillow. EdgeError if it is no picture."""
    return np.asarray(_open(path, "RGB"))


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Read a mask file as (H, W), true where it is not black; needs Pillow. EdgeError if it is no picture."""
    return np.asarray(_open(path, "L")) > 0


def _open(path: str | Path, mode: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise EdgeError(
            f"found no Pillow to read {path} with: pip install pillow, or hand over the picture as an RGB array"
        ) from error
    try:
        with Image.open(path) as picture:
            return picture.convert(mode)
    except OSError as error:
        raise EdgeError(
            f"found a file that cannot be read as an image: {path} ({error}); expected a picture such as PNG or JPEG"
        ) from error


def as_picture(image: Any) -> NDArray[np.float32]:
    """Bring RGB (H, W, 3), uint8 or float in [0, 1], or the path of a file to float32 (3, H, W) in [0, 1]."""
    array = read_image(image) if isinstance(image, str | Path) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise EdgeError(f"found a picture of shape {array.shape}, expected RGB (height, width, 3): convert it to RGB")
    if array.dtype == np.uint8:
        scaled = array.astype(np.float32) / np.float32(255)
    elif np.issubdtype(array.dtype, np.floating):
        scaled = array.astype(np.float32)
        if not (scaled.min() >= 0 and scaled.max() <= 1):
            raise EdgeError(
                f"found a picture of floats from {scaled.min()} to {scaled.max()}, expected [0, 1]: divide by 255"
            )
    else:
        raise EdgeError(f"found a picture of type {array.dtype}, expected uint8 or float in [0, 1]: convert it")
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def as_mask(mask: Any, picture: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Bring a mask (H, W), non-zero on the defect, or the path of a file to float32 0/1 (H, W) of its picture."""
    array = read_mask(mask) if isinstance(mask, str | Path) else np.asarray(mask) != 0
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
