"""Reading pictures and masks: every kind that Pillow opens, upright, scaled the same way wherever they come from."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from anomalib_nagl.io.image_files import Header, decode_image, decode_mask, is_picture, read_header, rgb

__all__ = [
    "Header",
    "as_image",
    "content_hash",
    "image_hash",
    "is_picture",
    "load_image",
    "load_mask",
    "read_header",
]


def load_image(path: str | Path) -> Tensor:
    """Read a picture as float RGB (3, H, W) in [0, 1], turned upright; ValueError if the file is no image, or missing.

    Grey becomes three equal channels, transparency is ignored, 16-bit values are divided by 65535, of several pages the
    first is read. Pictures of 8 bits without an orientation come out exactly as anomalib reads them.
    """
    return as_image(decode_image(path))


def load_mask(path: str | Path | None, image_name: str) -> Tensor:
    """Read a mask as uint8 0/1 (H, W), 1 where it is not black; ValueError if there is none, or if it is no image.

    It is turned as its image is: by its own EXIF orientation or, without one, by that of the image when it has the size
    at which the image is stored.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(
            f"found no mask for abnormal reference {image_name!r}, expected a mask image: "
            "put a picture that is white on the defect where the dataset looks for masks"
        )
    return torch.from_numpy(decode_mask(path, image_name).astype(np.uint8))


def as_image(given: Any) -> Tensor:
    """A picture in any usual form as float RGB (3, H, W) in [0, 1].

    Takes a path, a Pillow picture, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor (3, H, W) or (1, H, W).
    Unsigned integers are divided by their largest value, floats have to be in [0, 1]. ValueError for anything else.
    """
    if isinstance(given, str | Path):
        return load_image(given)
    if isinstance(given, Image.Image):
        return _scale(rgb(given, given.mode), given.mode)
    if isinstance(given, Tensor):
        plain = given.detach().cpu().as_subclass(Tensor)
        plain = plain[0] if plain.ndim == 4 and len(plain) == 1 else plain
        return _scale(plain.permute(1, 2, 0).numpy() if plain.ndim == 3 else plain.numpy(), "tensor")
    return _scale(np.asarray(given), "array")


def _scale(array: np.ndarray, kind: str) -> Tensor:
    channels = array.shape[2] if array.ndim == 3 else 1
    whole = array.dtype in (np.uint8, np.uint16)
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or not (whole or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(
            f"found a picture of shape {array.shape} and type {array.dtype} ({kind}), expected 1, 3 or 4 channels, "
            "arrays (height, width, channels), tensors (channels, height, width): convert it"
        )
    low, high = (0.0, 1.0) if whole or not array.size else (float(array.min()), float(array.max()))
    if not (low >= 0 and high <= 1):  # so that NaN is refused too
        raise ValueError(
            f"found values from {low:.3g} to {high:.3g} in a picture of floats ({kind}), expected 0 to 1: "
            "scale it, or store it with 8 or 16 bits"
        )
    planes = array.reshape(*array.shape[:2], channels)[..., :3].transpose(2, 0, 1)
    if array.dtype == np.uint8:  # torchvision's conversion: the same bits as anomalib's reader
        scaled = to_dtype(torch.from_numpy(planes.copy()), torch.float32, scale=True)
    else:
        scaled = torch.from_numpy(planes.astype(np.float32)) / (65_535.0 if whole else 1.0)
    return scaled.expand(3, -1, -1).contiguous()


def content_hash(image: Tensor) -> str:
    """SHA-256 of the size and the 8-bit pixels of an image (3, H, W) in [0, 1], or of a mask (1, H, W)."""
    pixels = (image * 255).round().to(torch.uint8).cpu().contiguous()
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()


def image_hash(path: str | Path) -> str:
    """``content_hash`` of a picture file, remembered until the file changes."""
    found = Path(path).stat()
    return _image_hash(str(path), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=65_536)
def _image_hash(path: str, changed: int, size: int) -> str:
    return content_hash(load_image(path))
