"""Images and masks as tensors: what ``io`` reads and checks, without a copy and without rules of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_nagl.io import arrays
from anomalib_nagl.io.arrays import check_mask
from anomalib_nagl.io.image_files import Header, is_image_file, read_header

__all__ = [
    "Header",
    "as_image",
    "check_mask",
    "content_hash",
    "image_hash",
    "is_image_file",
    "load_image",
    "load_mask",
    "read_header",
]


def load_image(path: str | Path) -> Tensor:
    """Read an image file as float RGB (3, H, W) in [0, 1], turned upright; ValueError if it is no image, or missing.

    See ``io.arrays.read_image``. Images of 8 bits without an orientation come out exactly as anomalib reads them.
    """
    return torch.from_numpy(arrays.as_image(Path(path)))


def load_mask(path: str | Path | Sequence[str] | None, image_name: str) -> Tensor:
    """Read a mask as uint8 0/1 (H, W), 1 where it is not black, of one file or of several: then it is all of them.

    Each is turned as the file ``image_name`` is; see ``io.arrays.read_mask``. ValueError if there is none, if one is no
    image, or if several have different sizes.
    """
    files = [path] if isinstance(path, str | Path) and str(path) else path
    if not files or isinstance(files, str | Path):
        raise ValueError(
            f"found no mask for abnormal reference {image_name!r}, expected a mask image: "
            "put an image that is white on the defect where the dataset looks for masks"
        )
    masks = [arrays.read_mask(file, image_name) for file in files]
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError(
            f"found masks of sizes {', '.join(str(mask.shape) for mask in masks)} for {image_name!r}, expected one "
            "size: draw them all on the image itself"
        )
    return torch.from_numpy(np.any(masks, axis=0).astype(np.uint8))


def as_image(given: Any) -> Tensor:
    """An image in any usual form as float RGB (3, H, W) in [0, 1].

    Takes what ``io.arrays.as_image`` takes, or a tensor (H, W), (C, H, W) or (1, C, H, W). ValueError for anything
    else.
    """
    if not isinstance(given, Tensor):
        return torch.from_numpy(arrays.as_image(given))
    plain = given.detach().cpu().as_subclass(Tensor)
    plain = plain.float() if plain.is_floating_point() else plain  # NumPy has no bfloat16
    plain = plain[0] if plain.ndim == 4 and len(plain) == 1 else plain
    array = plain.permute(1, 2, 0).numpy() if plain.ndim == 3 else plain.numpy()
    return torch.from_numpy(arrays.as_image(array, "a tensor (channels, height, width), here with channels last"))


def content_hash(image: Tensor) -> str:
    """SHA-256 of the size and the 8-bit pixels of an image (3, H, W) in [0, 1], or of a mask (1, H, W)."""
    return arrays.content_hash(image.detach().float().cpu().as_subclass(Tensor).numpy())


def image_hash(path: str | Path) -> str:
    """``content_hash`` of an image file, remembered until the file changes."""
    stat = Path(path).stat()
    return _image_hash(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65_536)
def _image_hash(path: str, changed: int, size: int) -> str:
    return content_hash(load_image(path))
