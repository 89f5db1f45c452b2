"""Reference pictures: what a person shows the model of a part it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anomalib_nagl.references.folders import scan
from anomalib_nagl.references.images import check_mask, content_hash, load_image, load_mask

__all__ = [
    "MASK_POLICIES",
    "ReferenceSet",
    "check_mask",
    "content_hash",
    "keep_thin",
    "load_image",
    "load_mask",
    "load_references",
]
MASK_POLICIES = ("auto", "whole", "required")
GIVEN, DEVIATING, WHOLE = "given", "most deviating patches", "whole image"


@dataclass(frozen=True)
class ReferenceSet:
    """Normal and abnormal reference images of one part, checked once.

    Images are float (3, H, W) in [0, 1], sizes may differ. Each abnormal image has a defect type and a mask (H, W) of
    its own size, non-zero where it is abnormal, or None: then its patches that deviate most from the normal references
    are taken (``functional.deviating_patches``). Names tell people which picture is meant, usually its path;
    ``mask_names`` are paths of mask files, "" without one, ``mask_origins`` say how a mask came about.

    Raises ValueError when there is no image at all, when counts differ, when an image or mask is not as described, or
    when a mask is missing and no normal image is there to compare with.
    """

    normal: tuple[Tensor, ...] = ()
    abnormal: tuple[Tensor, ...] = ()
    masks: tuple[Tensor | None, ...] = ()
    normal_names: tuple[str, ...] = ()
    abnormal_names: tuple[str, ...] = ()
    defect_types: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    mask_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in names that were not given, then check."""
        count = len(self.abnormal)
        for field in ("normal", "abnormal", "masks"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        default: dict[str, tuple[object, ...]] = {
            "masks": (None,) * count,
            "normal_names": tuple(f"normal {i}" for i in range(len(self.normal))),
            "abnormal_names": tuple(f"abnormal {i}" for i in range(count)),
            "defect_types": ("defect",) * count,
            "mask_names": ("",) * count,
        }
        for field, values in default.items():
            object.__setattr__(self, field, tuple(getattr(self, field)) or values)
        origins = self.mask_origins or tuple(DEVIATING if mask is None else GIVEN for mask in self.masks)
        object.__setattr__(self, "mask_origins", tuple(origins))
        self._check()

    @classmethod
    def from_folder(cls, folder: str | Path, masks: str = "auto") -> ReferenceSet:
        """Read ``normal/*``, ``abnormal/TYPE/*`` and ``masks/TYPE/*`` of a folder; see ``folders.scan``.

        ``masks`` "auto" uses those that are there, "whole" takes every defective picture as a whole, "required" wants
        one for each. Raises ValueError that lists what is wrong with the folder.
        """
        files = scan(folder).check()
        return load_references(
            files.normal,
            [file.image for file in files.abnormal],
            [file.mask for file in files.abnormal],
            [file.defect_type for file in files.abnormal],
            masks,
        )

    def _check(self) -> None:
        if not self.normal and not self.abnormal:
            raise ValueError("found no reference images, expected at least one: add a normal or an abnormal picture")
        abnormal = ("masks", "abnormal_names", "defect_types", "mask_names", "mask_origins")
        counts = {"normal_names": len(self.normal), **dict.fromkeys(abnormal, len(self.abnormal))}
        for field, expected in counts.items():
            found = len(getattr(self, field))
            if found != expected:
                raise ValueError(
                    f"found {found} {field} for {expected} images, expected one for each: "
                    "give every abnormal reference a mask or None, a name and a type"
                )
        for name, image in zip(self.normal_names + self.abnormal_names, self.normal + self.abnormal, strict=True):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ValueError(
                    f"found reference {name!r} of shape {tuple(image.shape)} and type {image.dtype}, "
                    "expected float (3, height, width) in [0, 1]: convert the picture to RGB"
                )
        for name, image, mask in zip(self.abnormal_names, self.abnormal, self.masks, strict=True):
            if mask is not None:
                check_mask(mask, (image.shape[-2], image.shape[-1]), name)
            elif not self.normal:
                raise ValueError(
                    f"found no mask for abnormal reference {name!r} and no normal reference to find its defect with, "
                    "expected one of them: add a mask or a normal picture"
                )

    def records(self) -> list[dict[str, str]]:
        """Plain facts of every image for a checkpoint: kind, name, defect type, SHA-256 of its 8-bit pixels.

        Abnormal ones also say where their mask came from, its name and the SHA-256 of its 0/1 pixels.
        """
        normal = [
            {"kind": "normal", "name": name, "defect_type": "good", "sha256": content_hash(image)}
            for name, image in zip(self.normal_names, self.normal, strict=True)
        ]
        abnormal = [
            {
                "kind": "abnormal",
                "name": name,
                "defect_type": self.defect_types[i],
                "sha256": content_hash(self.abnormal[i]),
                "mask": self.mask_names[i],
                "mask_origin": self.mask_origins[i],
                "mask_sha256": mask_hash(self.masks[i]),
            }
            for i, name in enumerate(self.abnormal_names)
        ]
        return normal + abnormal


def mask_hash(mask: Tensor | None) -> str:
    """SHA-256 of the size and the 0/1 pixels of a mask (H, W); empty without one."""
    return "" if mask is None else content_hash((mask != 0).float()[None])


def keep_thin(resized: Tensor, mask: Tensor) -> Tensor:
    """A resized mask (h, w), unless nearest neighbour lost a thin defect of the mask (H, W).

    Then every pixel is marked that a part of the defect falls on.
    """
    if bool(resized.any()) or not bool(mask.any()):
        return resized
    size = (resized.shape[-2], resized.shape[-1])
    pooled = nn.functional.adaptive_max_pool2d((mask != 0).float().reshape(1, *mask.shape[-2:]), size)
    return pooled.reshape(resized.shape).to(resized.dtype)


def load_references(
    normal: Sequence[str | Path],
    abnormal: Sequence[str | Path],
    masks: Sequence[str | Path | None],
    defect_types: Sequence[str],
    policy: str = "auto",
) -> ReferenceSet:
    """Read a reference set from image and mask files, with masks as in ``ReferenceSet.from_folder``.

    ValueError names the first file that will not do.
    """
    if policy not in MASK_POLICIES:
        raise ValueError(f"found masks={policy!r}, expected one of {', '.join(MASK_POLICIES)}")
    images = tuple(load_image(path) for path in abnormal)
    read: list[Tensor | None] = []
    for image, path, mask in zip(images, abnormal, masks, strict=True):
        if policy == "whole":
            read.append(torch.ones(image.shape[-2:], dtype=torch.uint8))
        else:
            read.append(load_mask(mask, str(path)) if mask or policy == "required" else None)
    origins = [WHOLE if policy == "whole" else GIVEN if mask is not None else DEVIATING for mask in read]
    return ReferenceSet(
        normal=tuple(load_image(path) for path in normal),
        abnormal=images,
        masks=tuple(read),
        normal_names=tuple(Path(path).as_posix() for path in normal),
        abnormal_names=tuple(Path(path).as_posix() for path in abnormal),
        defect_types=tuple(defect_types),
        mask_names=tuple(Path(mask).as_posix() if mask and policy != "whole" else "" for mask in masks),
        mask_origins=tuple(origins),
    )
