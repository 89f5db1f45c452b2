"""How good references are: problems of the files, and how the images compare with each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anomalib_nagl.core.functional import image_score, l2_normalize
from anomalib_nagl.references.folders import Problem, ReferenceFiles
from anomalib_nagl.references.images import image_hash, load_image, read_header
from anomalib_nagl.references.mask_quality import mask_problems

DARK = 0.15  # a 16-bit image whose brightest value lies below was hardly scaled to 16 bits
ODD = 3.0  # robust standard deviations above the others
HURTS = 1.1  # factor by which the defects stand out more without a reference


class NormalQuality(NamedTuple):
    """A normal reference: its deviation from the other normal ones, and remarks."""

    name: str
    held_out: float
    remarks: tuple[str, ...]


class DefectQuality(NamedTuple):
    """An abnormal reference.

    ``deviation`` of its abnormal patches from the normal references; ``stands_out`` is this divided by the mean
    deviation of held-out normal ones, above 1 is good; ``contrast`` the probability that an abnormal patch of the image
    deviates more than one that is not.
    """

    name: str
    defect_type: str
    deviation: float
    stands_out: float
    contrast: float
    remarks: tuple[str, ...]


def file_problems(files: ReferenceFiles) -> list[Problem]:
    """What is wrong, or looks wrong, with single images and masks; problems of the folder included."""
    problems = list(files.problems)
    unreadable = {problem.path for problem in problems}
    normal = {sample.image for sample in files.normal}
    everything = (sample.image for sample in files.normal + files.abnormal)
    paths = [path for path in everything if path not in unreadable]
    problems += _duplicates(paths, normal)
    shapes = {round(size[0] / size[1], 1) for size in (read_header(path).upright for path in paths)}
    if len(shapes) > 1:
        found = f"images of {len(shapes)} different aspect ratios"
        problems.append(Problem(files.root, found, "they are stretched to one: cut them alike", fatal=False))
    for path in paths:
        if read_header(path).mode.startswith("I;16") and float(load_image(path).max()) < DARK:
            found = "a 16-bit image that uses the darkest values only"
            problems.append(Problem(path, found, "scale it to 0..65535, or store 8 bits", fatal=False))
    for file in files.abnormal:
        if file.mask is None:
            found = "no mask: its most deviating patches are taken"
            problems.append(Problem(file.image, found, "check them on the contact sheet", fatal=False))
        elif file.image not in unreadable:
            problems += mask_problems(file.image, file.masks)
    return problems


def _duplicates(paths: Iterable[str], normal: set[str]) -> list[Problem]:
    first: dict[str, str] = {}
    problems = []
    for path in paths:
        twin = first.setdefault(image_hash(path), path)
        if twin != path:
            both = (twin in normal) != (path in normal)
            found = f"the same image as {twin}" + (", normal and abnormal" if both else "")
            problems.append(Problem(path, found, "remove one of them", fatal=both))
    return problems


def quality(
    normal: Tensor, abnormal: Tensor, patch_mask: Tensor, names: tuple[str, ...], types: tuple[str, ...]
) -> tuple[list[NormalQuality], list[DefectQuality]]:
    """Compare references: tokens (n, V * M, C) and (a, V * M, C), ``patch_mask`` (a, M), names of all, types of a.

    Each image is compared, as it is, with all views of the others. A deviation is (1 - cosine similarity) / 2 to the
    nearest normal patch; of an image, the mean of its highest 1 %.
    """
    n, upright = len(normal), slice(patch_mask.shape[-1])
    among = torch.stack([similarity(image[upright], normal) for image in normal]) if n else normal.new_zeros(0, 0, 0)
    known = len(abnormal) and n
    to_defects = torch.stack([similarity(image[upright], normal) for image in abnormal]) if known else None
    held_out = [_held_out(among, i, set()) for i in range(n)] if n > 1 else []
    typical = sum(held_out) / n if held_out else float("nan")
    defects = [
        _defect(names[n + j], types[j], 1 - to_defects[j].amax(-1), patch_mask[j], typical)
        for j in range(len(abnormal))
        if to_defects is not None
    ]
    remarks = _remarks(among, to_defects, patch_mask, held_out)
    return [NormalQuality(names[i], held_out[i] if held_out else float("nan"), remarks[i]) for i in range(n)], defects


def similarity(query: Tensor, normal: Tensor) -> Tensor:
    """Of every patch (M, C) of an image, (1 + cosine) / 2 to the most similar patch of each of n others: (M, n)."""
    cosine = torch.einsum("mc,nkc->mnk", l2_normalize(query), l2_normalize(normal))
    return (1 + cosine.amax(-1)) / 2


def _held_out(among: Tensor, image: int, without: set[int]) -> float:
    """Deviation of a normal image from the others, some of which may be left out too."""
    others = [i for i in range(len(among)) if i != image and i not in without]
    return float(image_score(1 - among[image][:, others].amax(-1)[None]))


def _defect(name: str, defect_type: str, deviation: Tensor, patch_mask: Tensor, typical: float) -> DefectQuality:
    inside, outside = deviation[patch_mask > 0], deviation[patch_mask == 0]
    value = float(image_score(inside[None]))
    contrast = float((inside[:, None] > outside).float().mean()) if len(outside) else float("nan")
    remarks = []
    if value <= typical:
        remarks.append("no more than a normal image")
    if contrast < 0.7:
        remarks.append("mask on what is hardly different")
    return DefectQuality(name, defect_type, value, value / typical, contrast, tuple(remarks))


def _remarks(
    among: Tensor, to_defects: Tensor | None, patch_mask: Tensor, held_out: list[float]
) -> list[tuple[str, ...]]:
    """For each normal reference: whether it is unlike the others, and whether the defects stand out more without it."""
    n = len(among)
    values = np.array(held_out)
    middle = float(np.median(values)) if held_out else 0.0
    spread = 1.4826 * float(np.median(np.abs(values - middle))) if held_out else 0.0
    remarks: list[tuple[str, ...]] = []
    for i in range(n):
        found = []
        if n > 3 and held_out[i] > middle + ODD * max(spread, 0.05 * middle):
            found.append("unlike the others: is it normal, sharp and of the same part?")
        if n > 2 and to_defects is not None:
            with_it, without = (_stand_out(among, to_defects, patch_mask, left) for left in (set(), {i}))
            if without > HURTS * with_it:
                found.append(f"hurts: without it the defects stand out {without / with_it:.2f} times as much")
        remarks.append(tuple(found))
    return remarks


def _stand_out(among: Tensor, to_defects: Tensor, patch_mask: Tensor, without: set[int]) -> float:
    """Mean deviation of abnormal patches over the mean held-out deviation of normal references."""
    kept = [i for i in range(len(among)) if i not in without]
    deviation = 1 - to_defects[..., kept].amax(-1)
    defects = [float(image_score(deviation[j][patch_mask[j] > 0][None])) for j in range(len(patch_mask))]
    normal = [_held_out(among, i, without) for i in kept]
    return float(np.mean(defects)) / max(float(np.mean(normal)), 1e-6)
