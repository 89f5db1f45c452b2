"""Reference images: what a person shows the model of a part it has never seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_nagl.references.folders import UNNAMED_DEFECT, scan
from anomalib_nagl.references.images import check_mask, content_hash, image_hash, load_image, load_mask
from anomalib_nagl.references.mask_quality import mask_problems
from anomalib_nagl.references.names import MASK_POLICIES, check_name
from anomalib_nagl.references.sample import GOOD, Sample

logger = logging.getLogger(__name__)
# Takes a sample, and whether its mask is wanted; returns the image, float (3, H, W), and the mask (H, W) or None.
Read = Callable[[Sample, bool], tuple[Tensor, Tensor | None]]
GIVEN, DEVIATING, FULL_IMAGE = "given", "most deviating patches", "full image"  # sources of a mask


@dataclass(frozen=True)
class ReferenceImage:
    """One reference, checked once: an image, float (3, H, W) in [0, 1], and what is known of it.

    An abnormal one has a mask (H, W) of its own size, non-zero where it is abnormal, or None: then its patches that
    deviate most from the normal references are taken. ``name`` tells people which image is meant, usually its path;
    ``mask_name`` is the path of the mask's file, "" without one, ``more_masks`` those of others that mark defects too;
    ``mask_source`` says how the mask came about. Where image and mask are not as their files hold them, ``sha256`` and
    ``mask_sha256`` are of the files.

    Raises ValueError when image or mask are not as described.
    """

    image: Tensor
    label: Literal["normal", "abnormal"]
    mask: Tensor | None = None
    name: str = ""
    defect_type: str = ""
    mask_name: str = ""
    mask_source: str = ""
    more_masks: tuple[str, ...] = ()
    sha256: str = ""
    mask_sha256: str = ""

    def __post_init__(self) -> None:
        """Check, and fill in what follows from the rest."""
        abnormal = self.label == "abnormal"
        if not self.defect_type:
            object.__setattr__(self, "defect_type", UNNAMED_DEFECT if abnormal else GOOD)
        if abnormal and not self.mask_source:
            object.__setattr__(self, "mask_source", DEVIATING if self.mask is None else GIVEN)
        if self.image.ndim != 3 or self.image.shape[0] != 3 or not self.image.is_floating_point():
            raise ValueError(
                f"found reference {self.name!r} of shape {tuple(self.image.shape)} and type {self.image.dtype}, "
                "expected float (3, height, width) in [0, 1]: convert the image to RGB"
            )
        if self.mask is not None:
            check_mask(self.mask, (self.image.shape[-2], self.image.shape[-1]), self.name)

    def record(self) -> dict[str, str]:
        """Plain facts for a checkpoint: label, name, defect type, SHA-256 of the 8-bit pixels.

        Those of an abnormal image also say where its mask came from, its name and the SHA-256 of its 0/1 pixels.
        """
        facts = {
            "kind": self.label,
            "name": self.name,
            "defect_type": self.defect_type,
            "sha256": self.sha256 or content_hash(self.image),
        }
        if self.label == "normal":
            return facts
        own = "" if self.mask is None else content_hash((self.mask != 0).float()[None])
        return {
            **facts,
            "mask": self.mask_name,
            "mask_source": self.mask_source,
            "mask_sha256": self.mask_sha256 or own,
            **{f"mask_{number}": name for number, name in enumerate(self.more_masks, 2)},
        }


@dataclass(frozen=True, init=False, eq=False)
class ReferenceSet:
    """Normal and abnormal reference images of one part, the normal ones first; sizes may differ.

    Made of tensors, float (3, H, W) in [0, 1], with a mask (H, W) or None for each abnormal one, or of ``images`` of
    which more is known. Raises ValueError when there is no image at all, when an image or a mask is not as
    ``ReferenceImage`` wants it, when counts differ, or when a mask is missing and no normal image is there to compare
    with.
    """

    images: tuple[ReferenceImage, ...]

    def __init__(
        self,
        normal: Iterable[Tensor] = (),
        abnormal: Iterable[Tensor] = (),
        masks: Iterable[Tensor | None] = (),
        *,
        images: Iterable[ReferenceImage] = (),
    ) -> None:
        defects = tuple(abnormal)
        given = tuple(masks) or (None,) * len(defects)
        if len(given) != len(defects):
            raise ValueError(
                f"found {len(given)} masks for {len(defects)} abnormal images, expected one for each: "
                "give every abnormal reference a mask or None"
            )
        everything = [
            *(ReferenceImage(image, "normal", name=f"normal {i}") for i, image in enumerate(normal)),
            *(
                ReferenceImage(image, "abnormal", mask, f"abnormal {i}")
                for i, (image, mask) in enumerate(zip(defects, given, strict=True))
            ),
            *images,
        ]
        object.__setattr__(self, "images", tuple(sorted(everything, key=lambda image: image.label == "abnormal")))
        self._check()

    def _check(self) -> None:
        if not self.images:
            raise ValueError("found no reference images, expected at least one: add a normal or an abnormal image")
        for image in self.images if not self.normal else ():
            if image.mask is None:
                raise ValueError(
                    f"found no mask for abnormal reference {image.name!r} and no normal reference to find its defect "
                    "with, expected one of them: add a mask or a normal image"
                )

    @classmethod
    def from_folder(cls, folder: str | Path, masks: str = "auto") -> ReferenceSet:
        """Read ``normal/*``, ``abnormal/TYPE/*`` and ``masks/TYPE/*`` of a folder; see ``folders.scan``.

        ``masks`` "auto" uses those that are there, "whole" marks the full image of every abnormal reference,
        "required" wants a mask for each. Raises ValueError that lists what is wrong with the folder.
        """
        files = scan(folder).check()
        files.warn()
        return load_references(files.normal, files.abnormal, masks)

    def _of(self, label: str) -> tuple[ReferenceImage, ...]:
        return tuple(image for image in self.images if image.label == label)

    @property
    def normal(self) -> tuple[Tensor, ...]:
        """Normal images (3, H, W)."""
        return tuple(image.image for image in self._of("normal"))

    @property
    def abnormal(self) -> tuple[Tensor, ...]:
        """Abnormal images (3, H, W)."""
        return tuple(image.image for image in self._of("abnormal"))

    @property
    def masks(self) -> tuple[Tensor | None, ...]:
        """Masks (H, W) of the abnormal images, None without one."""
        return tuple(image.mask for image in self._of("abnormal"))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image in pixels."""
        return [(one.image.shape[-2], one.image.shape[-1]) for one in self.images]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all images."""
        return tuple(image.name for image in self.images)

    @property
    def defect_types(self) -> tuple[str, ...]:
        """Defect types of the abnormal images."""
        return tuple(image.defect_type for image in self._of("abnormal"))

    @property
    def mask_sources(self) -> tuple[str, ...]:
        """How the masks of the abnormal images came about."""
        return tuple(image.mask_source for image in self._of("abnormal"))

    def records(self) -> list[dict[str, str]]:
        """Plain facts of every image; see ``ReferenceImage.record``."""
        return [image.record() for image in self.images]


def load_references(
    normal: Sequence[Sample], abnormal: Sequence[Sample], policy: str = "auto", read: Read | None = None
) -> ReferenceSet:
    """Read a reference set from image and mask files, with masks as in ``ReferenceSet.from_folder``.

    ``read`` makes of a file what queries are made of, see ``Read``; without it files are read as they are. What looks
    wrong with a mask is said in a warning. ValueError names the first file that will not do.
    """
    check_name("masks", policy, MASK_POLICIES)
    return ReferenceSet(
        images=[
            *(_load_normal(sample, read) for sample in normal),
            *(_load_abnormal(sample, policy, read) for sample in abnormal),
        ]
    )


def read_files(sample: Sample, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Image and mask as the files hold them; see ``Read``."""
    return load_image(sample.image), load_mask(sample.masks, sample.image) if masked else None


def _load_normal(sample: Sample, read: Read | None) -> ReferenceImage:
    image, _ = (read or read_files)(sample, False)
    return ReferenceImage(image, "normal", name=Path(sample.image).as_posix(), sha256=_file_hash(sample, read))


def _load_abnormal(sample: Sample, policy: str, read: Read | None) -> ReferenceImage:
    name, masked = Path(sample.image).as_posix(), policy != "whole" and (bool(sample.mask) or policy == "required")
    if masked:
        _warn_of_mask(sample)
    image, mask = (read or read_files)(sample, masked)
    facts: dict[str, Any] = {"name": name, "defect_type": sample.defect_type, "sha256": _file_hash(sample, read)}
    if policy == "whole":
        full = torch.ones(image.shape[-2:], dtype=torch.uint8)
        return ReferenceImage(image, "abnormal", full, mask_source=FULL_IMAGE, **facts)
    if not masked:
        return ReferenceImage(image, "abnormal", None, **facts)
    files = tuple(Path(path).as_posix() for path in sample.masks) or ("",)
    pixels = "" if read is None else content_hash(load_mask(sample.masks, sample.image).float()[None])
    return ReferenceImage(
        image, "abnormal", mask, mask_name=files[0], more_masks=files[1:], mask_sha256=pixels, **facts
    )


def _file_hash(sample: Sample, read: Read | None) -> str:
    """What a reference is known by: the pixels of its file, whatever was made of them."""
    return "" if read is None else image_hash(sample.image)


def _warn_of_mask(sample: Sample) -> None:
    for problem in mask_problems(sample.image, sample.masks):
        if not problem.fatal:  # others are errors a moment later
            logger.warning("%s", problem)
