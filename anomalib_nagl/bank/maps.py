"""From patch scores to image scores and anomaly maps, without torch; ``core.functional`` does so for queries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIGMA, SIGMA_SIDE = 4.0, 448  # smoothing of the published maps: 4 pixels of a 448-pixel input
LONGEST = 1024  # pixels of an axis that is blurred by one square matrix


def image_score(score: Floats, fraction: float = 0.01, cells: int | None = None) -> Floats:
    """Image score (B,): mean of the largest ``fraction`` of the patch scores (B, M), at least one (section 9).

    ``cells`` is of how many patches the fraction is taken, all unless given: those of one window of a large image, or
    of a region of interest.
    """
    count = max(int(fraction * (score.shape[-1] if cells is None else cells)), 1)
    largest = np.sort(score, axis=-1)[..., -count:]
    return largest.mean(axis=-1, dtype=np.float64).astype(np.float32)


def smoothing_sigma(size: tuple[int, int]) -> float:
    """Width in pixels of the Gaussian that smooths maps of a network input (height, width)."""
    return SIGMA * min(size) / SIGMA_SIDE


def smoothing_matrix(cells: int, pixels: int, sigma: float) -> Floats:
    """Matrix (pixels, cells): bilinear up-sampling, then a Gaussian of ``sigma`` pixels (section 9).

    The Gaussian is cut at 4 sigma and mirrored at the border, the border pixel repeated.
    """
    centre = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    upsample = np.maximum(1 - np.abs(centre[:, None] - np.arange(cells)), 0)
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return upsample.astype(np.float32)
    offset = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    source = (np.arange(pixels)[:, None] + offset) % (2 * pixels)
    source = np.minimum(source, 2 * pixels - 1 - source)
    if pixels > LONGEST:  # the square matrix would be larger than all else of a large image
        share = weight / weight.sum()
        return sum(upsample[place] * part for place, part in zip(source.T, share, strict=True)).astype(np.float32)
    blur = np.zeros((pixels, pixels))
    np.add.at(blur, (np.arange(pixels)[:, None], source), weight / weight.sum())
    return (blur @ upsample).astype(np.float32)


def anomaly_map(score: Floats, down: Floats, right: Floats) -> Floats:
    """Anomaly map (B, H, W) of patch scores (B, M), given the smoothing matrices (H, rows) and (W, cols)."""
    cells = score.reshape(len(score), down.shape[1], right.shape[1])
    smooth: Floats = down @ cells @ right.T
    return smooth
