"""Light, pose, lens and sensor: the harmless differences between two images of one intact product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from skimage.transform import AffineTransform, warp

from anomalib_nagl.rendered.surface import CANVAS, Bools, Floats, Surface

IMAGE_SIDE = 192  # side of a finished image in pixels
SCALE = 2  # canvas pixels for one image pixel


def photograph(surface: Surface, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Take one image.

    Returns:
        The image, (IMAGE_SIDE, IMAGE_SIDE, 3), and the damage seen in it, (IMAGE_SIDE, IMAGE_SIDE).
    """
    stack = np.stack([*_light(surface, rng), surface.damage.astype(np.float32)], axis=-1)
    seen = _pose(stack, rng)
    image = seen[..., :3] * _illumination(rng)[..., None]
    return _sense(_dust(image, rng), rng), seen[..., 3] > 0.5


def _light(surface: Surface, rng: np.random.Generator) -> Floats:
    """Colour of the canvas, (3, CANVAS, CANVAS), under one distant lamp from about the upper left."""
    azimuth, elevation = rng.normal(-2.3, 0.15), rng.normal(0.95, 0.05)
    lamp = np.array([np.sin(azimuth), np.cos(azimuth), np.tan(elevation)], np.float32)
    lamp /= np.linalg.norm(lamp)
    down, across = np.gradient(surface.height)
    length = np.sqrt(down**2 + across**2 + 1)
    facing = (lamp[2] - lamp[0] * down - lamp[1] * across) / length
    diffuse = 0.35 + 0.65 * np.clip(facing, 0, None) / lamp[2]
    # Half way between lamp and camera: relief that faces there mirrors the lamp.
    half = lamp + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    mirror = np.clip((half[2] - half[0] * down - half[1] * across) / length, 0, 1) ** 24
    lit: Floats = surface.albedo * diffuse + surface.gloss * mirror
    return lit


def _pose(stack: Floats, rng: np.random.Generator) -> Floats:
    """Bring the canvas down to the image's resolution, then turn, shift and zoom a little."""
    half = CANVAS // SCALE
    small = stack.reshape(half, SCALE, half, SCALE, -1).mean(axis=(1, 3))
    turn = AffineTransform(
        rotation=np.deg2rad(rng.uniform(-2.5, 2.5)),
        scale=rng.uniform(0.98, 1.02),
        translation=rng.uniform(-4, 4, 2) + half / 2,
    )
    middle = AffineTransform(translation=(-IMAGE_SIDE / 2, -IMAGE_SIDE / 2))
    seen: Floats = warp(small, middle + turn, output_shape=(IMAGE_SIDE, IMAGE_SIDE), order=1, mode="reflect")
    return seen.astype(np.float32)


def _illumination(rng: np.random.Generator) -> Floats:
    """Uneven light, (IMAGE_SIDE, IMAGE_SIDE): exposure, a slope across the image and up to two soft patches."""
    rows, columns = np.indices((IMAGE_SIDE, IMAGE_SIDE), dtype=np.float32) / IMAGE_SIDE - 0.5
    slope = rng.normal(0, 0.1, 2)
    light = rng.normal(1, 0.05) * (1 + slope[0] * rows + slope[1] * columns)
    for _ in range(rng.integers(0, 3)):
        row, column = rng.uniform(-0.4, 0.4, 2)
        width, strength = rng.uniform(0.06, 0.18), rng.choice([-1, 1]) * rng.uniform(0.08, 0.22)
        light *= 1 + strength * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
    return light.astype(np.float32)


def _dust(image: Floats, rng: np.random.Generator) -> Floats:
    """A few specks of dust, one or two pixels wide and faint."""
    specks = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.float32)
    count = rng.poisson(5)
    specks[tuple(rng.integers(0, IMAGE_SIDE, (2, count)))] = rng.uniform(-1.0, 1.6, count)
    return image + gaussian_filter(specks, 0.8)[..., None] * np.array([1.0, 0.97, 0.9], np.float32)


def _sense(image: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Lens blur, white balance, sensor noise and 8-bit rounding."""
    sigma = rng.uniform(0.3, 0.5)
    blurred = gaussian_filter(image, (sigma, sigma, 0))
    balanced = blurred * rng.normal(1, 0.015, 3)
    noisy = balanced + rng.normal(0, 1, image.shape) * rng.uniform(0.008, 0.018)
    return np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
