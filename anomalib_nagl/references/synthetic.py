"""Abnormal references made from normal ones, for people who have not met a defect yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from anomalib_nagl.references.names import check_synthetic
from anomalib_nagl.references.reference_set import ReferenceImage, ReferenceSet

SYNTHETIC = "synthetic"  # defect type and mask source of such references
AREA = 0.003, 0.02  # share of the image that a pasted defect covers
TRIES = 20
# Takes normal images (3, H, W), the place of the one to damage, and the seed with the number of the defect; returns the
# damaged image and its mask (H, W), 0/1.
Method = Callable[[Sequence[Tensor], int, tuple[int, int]], tuple[Tensor, Tensor]]


def with_synthetic(references: ReferenceSet, count: int, method: str = "cut_paste", seed: int = 0) -> ReferenceSet:
    """Add ``count`` abnormal references made from the normal ones in turn, the same for the same ``seed``.

    Methods are those of ``METHODS``: ``cut_paste``, and with the plugin ``perlin``, anomalib's own generator of
    textured spots. Raises ValueError for another method, a negative count, or without a normal reference.
    """
    check_synthetic(count, method)
    if not count:
        return references
    normal = references.normal
    if not normal:
        raise ValueError("found no normal reference to make abnormal ones from, expected at least one: add an image")
    if method not in METHODS:
        raise ValueError(
            f"found synthetic={method!r} without its generator, expected one of {', '.join(METHODS)}: it comes with "
            "anomalib, import anomalib_nagl.plugin"
        )
    made = [METHODS[method](normal, number % len(normal), (seed, number)) for number in range(count)]
    added = [
        ReferenceImage(image, "abnormal", mask, f"{SYNTHETIC} {method} {number}", SYNTHETIC, mask_source=SYNTHETIC)
        for number, (image, mask) in enumerate(made)
    ]
    return ReferenceSet(images=[*references.images, *added])


def cut_paste(normal: Sequence[Tensor], place: int, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Paste a piece of another place, or of another normal image, turned, of other colour and random outline.

    Of several random pieces the one is taken that differs most from what it covers: a piece like its surroundings would
    be no defect.
    """
    generator = np.random.default_rng([key[0], 2, key[1]])
    image = normal[place]
    height, width = image.shape[-2:]
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(TRIES):
        side = max(int(math.sqrt(height * width * generator.uniform(*AREA)) * 1.5), 8)
        side = min(side, height, width)
        source = normal[int(generator.integers(len(normal)))]
        piece = _random_piece(source, side, generator)
        outline = _random_outline(side, generator)
        top, left = int(generator.integers(height - side + 1)), int(generator.integers(width - side + 1))
        covered = image[:, top : top + side, left : left + side]
        soft = torch.from_numpy(ndimage.gaussian_filter(outline, max(side / 30, 0.5))).float()
        blended = soft * piece + (1 - soft) * covered
        marked = torch.from_numpy(outline > 0)
        difference = float((blended - covered).abs().mean(0)[marked].mean())
        if best is None or difference > best[0]:
            pasted, mask = image.clone(), torch.zeros(height, width, dtype=torch.uint8)
            pasted[:, top : top + side, left : left + side] = blended
            mask[top : top + side, left : left + side] = marked
            best = difference, pasted, mask
    if best is None:
        raise RuntimeError("found no piece to paste, expected one: report this as a bug")
    return best[1], best[2]


def _random_piece(source: Tensor, side: int, generator: np.random.Generator) -> Tensor:
    """A square piece (3, side, side) of an image, turned and of other brightness, contrast and colour."""
    height, width = source.shape[-2:]
    side_there = min(side, height, width)
    top, left = (int(generator.integers(length - side_there + 1)) for length in (height, width))
    piece = source[:, top : top + side_there, left : left + side_there]
    piece = transforms.resize(piece, [side, side], antialias=True)
    angle = float(generator.uniform(-180, 180))
    padded = transforms.pad(piece, [side // 2] * 4, padding_mode="reflect")
    turned = transforms.rotate(padded, angle, interpolation=InterpolationMode.BILINEAR)
    piece = transforms.center_crop(turned, [side, side])
    middle = piece.mean((1, 2), keepdim=True)
    contrast, shift = generator.uniform(0.6, 1.4), generator.uniform(-0.25, 0.25)
    colour = torch.from_numpy(generator.uniform(-0.05, 0.05, (3, 1, 1))).float()
    grey = bool((source[0] == source[1]).all() and (source[1] == source[2]).all())
    return ((piece - middle) * contrast + middle + shift + (0 if grey else colour)).clamp(0, 1)


def _random_outline(side: int, generator: np.random.Generator) -> np.ndarray:
    """A random blob or streak, 0/1 (side, side), that touches the border nowhere if it can."""
    angle, stretch = generator.uniform(0, math.pi), generator.uniform(0.15, 1.0)
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / (side / 2)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = (y * math.cos(angle) - x * math.sin(angle)) / stretch
    waves = ndimage.gaussian_filter(generator.standard_normal((side, side)), max(side / 8, 1), mode="wrap")
    radius = np.hypot(along, across) + 0.25 * waves / (waves.std() + 1e-9)
    inside = radius < 0.75
    inside[side // 2, side // 2] = True
    return inside.astype(np.float32)


METHODS: dict[str, Method] = {"cut_paste": cut_paste}  # the plugin adds those that need anomalib
