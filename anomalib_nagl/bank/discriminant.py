"""Fisher's linear discriminant of known defects against normal patches, shrunk, in closed form.

A direction in the space of unit tokens along which defects lie far from what is normal, measured in spreads of normal
patches, and weighted by what a deviation is worth on this part (``spread``). References alone decide it, through sums
that grow with each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.moments import Doubles, Moments
from anomalib_nagl.bank.patch_masks import l2_normalize

WEIGHT = 0.5  # of a deviation along the direction, in units of what deviations are worth on this part
DEFECT_WEIGHT = 0.25  # of the similarity to the nearest patch of a known defect
SHRINKAGE = 0.1  # share of a sphere in the covariance: any from 0.02 to 0.2 gives the same scores
BLOCK = 1024  # patches that are compared at once
FLAT = 1e-12  # variance below which normal patches are all alike
Floats = NDArray[np.float32]


def directions(normal: Moments, defects: Sequence[Doubles], spread: float) -> Floats:
    """A row (T, C) for each mean (C,) of the unit patches of some known defects.

    Its product with a unit token less the mean of normal patches is how far the token lies from them towards the
    defects, in standard deviations of the normal ones, times ``WEIGHT`` and ``spread``. Zeros where normal patches are
    all alike or there are none: nothing can be told then.
    """
    covariance, width = normal.covariance, len(normal.total)
    variance = float(np.trace(covariance)) / width
    found = np.zeros((len(defects), width))
    if not len(defects) or variance <= FLAT:
        return found.astype(np.float32)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * np.eye(width)
    # No eigenvalue is below SHRINKAGE * variance, and their sum is width * variance: it can always be inverted.
    found = np.linalg.solve(shrunk, (np.stack(defects) - normal.mean).T).T
    deviations = np.sqrt(np.maximum(((found @ covariance) * found).sum(axis=1, keepdims=True), 0))
    scaled = np.divide(found, deviations, out=np.zeros_like(found), where=deviations > FLAT)
    return (WEIGHT * spread * scaled).astype(np.float32)


def defect_share(spread: float, similarity_spread: float) -> float:
    """Weight of the similarity to the nearest known defect, given its own spread among normal patches.

    Where that scatters more than deviations do, it says less of a patch than these: weak features liken everything to
    a defect. It counts as much less then.
    """
    return DEFECT_WEIGHT * min(1.0, spread / similarity_spread) if similarity_spread > 0 else 0.0


def spread(patches: Floats, bank: Floats) -> float:
    """Standard deviation of 1 - the largest (1 + cosine) / 2 of patches (P, C) to those of a bank (K, C); 0 of none."""
    if not len(patches) or not len(bank):
        return 0.0
    cosine = (l2_normalize(patches) @ l2_normalize(bank).T).max(axis=1)
    return float((cosine / 2).std(dtype=np.float64))


def inner_spread(bank: Floats) -> float:
    """The same of patches (K, C) to the others of their bank; 0 of a single one."""
    if len(bank) < 2:
        return 0.0
    unit = l2_normalize(bank)
    nearest = np.empty(len(unit), np.float32)
    for start in range(0, len(unit), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = -1
        nearest[start : start + BLOCK] = cosine.max(axis=1)
    return float((nearest / 2).std(dtype=np.float64))
