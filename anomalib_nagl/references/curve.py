"""Where on the curve of more references a part stands: by its own references, and by what other parts gave."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_nagl.core.functional import image_score
from anomalib_nagl.references.quality import similarity

# Means of `python examples/benchmarks/curves.py ... --table` over domains of real images, backbone builtin.
MEASURED = Path(__file__).with_name("curve.csv")
FLAT = 0.05  # a change below which more good images are said to change little


class CurvePoint(NamedTuple):
    """So many normal references: how far a held-out normal image deviates, and how far defects stand out from it.

    Both as in ``quality``; ``stands_out`` is NaN without defects.
    """

    normal: int
    held_out: float
    stands_out: float


class Measured(NamedTuple):
    """What n normal and a defective references gave on other parts, means over domains and so many draws of them."""

    n: int
    a: int
    image_auroc: float
    pixel_ap: float
    draws: int


def own_curve(normal: Tensor, abnormal: Tensor, patch_mask: Tensor) -> list[CurvePoint]:
    """Points at 1, 2, 4, ... normal references of a part, up to all but the one that is held out.

    Tokens (n, V * M, C) and (a, V * M, C), ``patch_mask`` (a, M). Every image is held out once, and compared with the
    next ones in turn; defects with as many, beginning at every image.
    """
    n, upright = len(normal), slice(patch_mask.shape[-1])
    if n < 2:
        return []
    among = [1 - similarity(image[upright], normal) for image in normal]
    defects = [
        1 - similarity(image[upright], normal)[mask > 0] for image, mask in zip(abnormal, patch_mask, strict=True)
    ]
    points = []
    for count in sorted({*(2**power for power in range(n.bit_length()) if 2**power < n), n - 1}):
        windows = [[(start + step) % n for step in range(count)] for start in range(n)]
        held_out = torch.stack([_score(among[window[0] - 1], window) for window in windows]).mean()
        apart = [_score(defect, window) for defect in defects for window in windows]
        ratio = torch.stack(apart).mean() / held_out.clamp_min(1e-6) if apart else torch.tensor(float("nan"))
        points.append(CurvePoint(count, float(held_out), float(ratio)))
    return points


def _score(deviation: Tensor, kept: Sequence[int]) -> Tensor:
    """Image score of patches (M, n) that are compared with some of n images."""
    return image_score(deviation[:, list(kept)].amin(-1)[None])[0]


def own_sentence(points: Sequence[CurvePoint]) -> str | None:
    """Where a part stands by its own references; None where there are too few to say."""
    if len(points) < 2:
        return None
    before, last = points[-2:]
    fall = 1 - last.held_out / max(before.held_out, 1e-6)
    shown = ", ".join(f"{point.held_out:.4f} with {point.normal}" for point in points)
    if fall > FLAT:
        return (
            f"Still falling: a held-out good image deviates by {shown} other good ones, so more good images make the "
            "defects stand out more"
        )
    return f"Flat: a held-out good image deviates by {shown} other good ones, so more of the same kind change little"


@lru_cache(maxsize=1)
def measured() -> tuple[Measured, ...]:
    """The curve that comes with the package."""
    with MEASURED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Measured(int(row["n"]), int(row["a"]), float(row["image_AUROC"]), float(row["pixel_AP"]), int(row["draws"]))
        for row in rows
    )


def general_sentence(normal: int, abnormal: int) -> str | None:
    """What that many references, or the next smaller numbers, gave on other parts, and what the next step would add."""
    fitting = [point for point in measured() if point.n <= normal and point.a <= abnormal]
    if not fitting:
        return None
    here = max(fitting, key=lambda point: (point.a, point.n))  # a defect is worth more than a good image
    more_normal = [point for point in measured() if point.n > here.n and point.a == here.a]
    more_defective = [point for point in measured() if point.n == here.n and point.a > here.a]
    text = (
        f"On real parts of five domains {here.n} normal and {here.a} defective references gave a mean image AUROC of "
        f"{here.image_auroc:.3f} and a pixel AP of {here.pixel_ap:.3f} (draws of references: {here.draws})"
    )
    steps = [min(points) for points in (more_normal, more_defective) if points]
    words = [f"{point.n} + {point.a} {point.image_auroc:.3f} and {point.pixel_ap:.3f}" for point in steps]
    return text + (f"; {', '.join(words)}" if words else "")
