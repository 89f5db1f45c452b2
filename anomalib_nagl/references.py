"""Reference pictures: what a person shows the model of a part it has never seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from anomalib.data.utils import read_image, read_mask
from PIL import UnidentifiedImageError
from torch import Tensor, nn


@dataclass(frozen=True)
class ReferenceSet:
    """Normal and abnormal reference images of one part, checked once.

    Images are float (3, H, W) in [0, 1], sizes may differ. Each abnormal image has a mask (H, W) of its own size,
    non-zero where it is abnormal, and a defect type. Names tell people which picture is meant, usually its path. Raises
    ValueError when there is no image at all, when counts differ, or when an image or mask is not as described.
    """

    normal: tuple[Tensor, ...] = ()
    abnormal: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()
    normal_names: tuple[str, ...] = ()
    abnormal_names: tuple[str, ...] = ()
    defect_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in names that were not given, then check."""
        default_names = {
            "normal_names": tuple(f"normal {i}" for i in range(len(self.normal))),
            "abnormal_names": tuple(f"abnormal {i}" for i in range(len(self.abnormal))),
            "defect_types": ("defect",) * len(self.abnormal),
        }
        for field, default in default_names.items():
            object.__setattr__(self, field, tuple(getattr(self, field)) or default)
        for field in ("normal", "abnormal", "masks"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        self._check()

    def _check(self) -> None:
        if not self.normal and not self.abnormal:
            raise ValueError("found no reference images, expected at least one: add a normal or an abnormal picture")
        counts = {
            "normal_names": (len(self.normal_names), len(self.normal)),
            "masks": (len(self.masks), len(self.abnormal)),
            "abnormal_names": (len(self.abnormal_names), len(self.abnormal)),
            "defect_types": (len(self.defect_types), len(self.abnormal)),
        }
        for field, (found, expected) in counts.items():
            if found != expected:
                raise ValueError(
                    f"found {found} {field} for {expected} images, expected one for each: "
                    "give every abnormal reference a mask, a name and a type"
                )
        for name, image in zip(self.normal_names + self.abnormal_names, self.normal + self.abnormal, strict=True):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ValueError(
                    f"found reference {name!r} of shape {tuple(image.shape)} and type {image.dtype}, "
                    "expected float (3, height, width) in [0, 1]: convert the picture to RGB"
                )
        for name, image, mask in zip(self.abnormal_names, self.abnormal, self.masks, strict=True):
            check_mask(mask, (image.shape[-2], image.shape[-1]), name)

    def records(self) -> list[dict[str, str]]:
        """Plain facts of every image for a checkpoint: kind, name, defect type, SHA-256 of its 8-bit pixels."""
        kinds = ["normal"] * len(self.normal) + ["abnormal"] * len(self.abnormal)
        types = ("good",) * len(self.normal) + self.defect_types
        names, images = self.normal_names + self.abnormal_names, self.normal + self.abnormal
        return [
            {"kind": kind, "name": name, "defect_type": defect, "sha256": content_hash(image)}
            for kind, name, defect, image in zip(kinds, names, types, images, strict=True)
        ]


def content_hash(image: Tensor) -> str:
    """SHA-256 of the size and the 8-bit pixels of an image (3, H, W) in [0, 1]."""
    pixels = (image * 255).round().to(torch.uint8).cpu().contiguous()
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()


def check_mask(mask: Tensor, size: tuple[int, int], name: str) -> None:
    """Raise ValueError unless a mask is (H, W) of its image's size and marks at least one pixel."""
    if tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"found a mask of size {tuple(mask.shape)} for {name!r}, expected the size of its image {tuple(size)}: "
            "draw the mask on the image itself, without resizing"
        )
    if not bool((mask != 0).any()):
        raise ValueError(
            f"found an empty mask for abnormal reference {name!r}, expected at least one marked pixel: "
            "mark the defect, or use the picture as a normal reference"
        )


def keep_thin(resized: Tensor, mask: Tensor) -> Tensor:
    """A resized mask (h, w), unless nearest neighbour lost a thin defect of the mask (H, W).

    Then every pixel is marked that a part of the defect falls on.
    """
    if bool(resized.any()) or not bool(mask.any()):
        return resized
    size = (resized.shape[-2], resized.shape[-1])
    pooled = nn.functional.adaptive_max_pool2d((mask != 0).float().reshape(1, *mask.shape[-2:]), size)
    return pooled.reshape(resized.shape).to(resized.dtype)


def load_image(path: str | Path) -> Tensor:
    """Read a picture as float RGB (3, H, W) in [0, 1]; ValueError if the file is no image, or missing."""
    try:
        return torch.as_tensor(read_image(path, as_tensor=True)).as_subclass(Tensor)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"found a file that cannot be read as an image: {path} ({error}); expected a picture such as PNG or JPEG: "
            "replace or remove the file"
        ) from error


def load_mask(path: str | Path | None, image_name: str) -> Tensor:
    """Read a mask as uint8 0/1 (H, W); ValueError if there is none, or if it is no image."""
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(
            f"found no mask for abnormal reference {image_name!r}, expected a mask image: "
            "put a picture that is white on the defect where the dataset looks for masks"
        )
    try:
        return torch.as_tensor(read_mask(path, as_tensor=True)).as_subclass(Tensor)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"found a mask that cannot be read as an image: {path} ({error}); expected a grey picture: replace it"
        ) from error


def load_references(
    normal: Sequence[str | Path],
    abnormal: Sequence[str | Path],
    masks: Sequence[str | Path | None],
    defect_types: Sequence[str],
) -> ReferenceSet:
    """Read a reference set from image and mask files; ValueError names the first file that will not do."""
    return ReferenceSet(
        normal=tuple(load_image(path) for path in normal),
        abnormal=tuple(load_image(path) for path in abnormal),
        masks=tuple(load_mask(mask, str(path)) for mask, path in zip(masks, abnormal, strict=True)),
        normal_names=tuple(Path(path).as_posix() for path in normal),
        abnormal_names=tuple(Path(path).as_posix() for path in abnormal),
        defect_types=tuple(defect_types),
    )
