"""A prediction drawn over its image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.edge.detector import Prediction

COLOUR = np.array([255, 0, 0], dtype=np.float32)
STRENGTH = 0.6  # share of the colour where the anomaly map is 1


def draw_overlay(image: NDArray[np.uint8], prediction: Prediction) -> NDArray[np.uint8]:
    """An image (H, W, 3) with its anomaly map in red, and white where the predicted mask ends; needs Pillow."""
    strength = (
        _resize((prediction.map.clip(0, 1) * 255).astype(np.uint8), image)[..., None] / np.float32(255) * STRENGTH
    )
    drawn = image * (1 - strength) + COLOUR * strength
    if prediction.mask is not None:
        drawn[_outline(_resize(prediction.mask.astype(np.uint8) * 255, image) > 127)] = 255
    return drawn.astype(np.uint8)


def _resize(grey: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey pixels at the size of an image (H, W, 3)."""
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((image.shape[1], image.shape[0])))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask (H, W) that have a neighbour outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline
