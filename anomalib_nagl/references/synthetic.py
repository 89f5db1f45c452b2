"""Defective references made from normal ones, for people who have not met a defect yet."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from anomalib_nagl.references.reference_set import ReferenceSet

KINDS = ("cut_paste", "perlin")
SYNTHETIC = "synthetic"
AREA = 0.003, 0.02  # share of the picture that a pasted defect covers
TRIES = 20


def with_synthetic(references: ReferenceSet, count: int, kind: str = "cut_paste", seed: int = 0) -> ReferenceSet:
    """Add ``count`` abnormal references made from the normal ones in turn, the same for the same ``seed``.

    "cut_paste" pastes a piece of another place, or of another normal picture, with a random outline, turned, of other
    colour, its border blended. "perlin" is anomalib's own generator of textured spots. Raises ValueError for another
    kind, a negative count, or without a normal reference.
    """
    check_synthetic(count, kind)
    if count and not references.normal:
        raise ValueError("found no normal reference to make defective ones from, expected at least one: add a picture")
    made = []
    for number in range(count):
        place = number % len(references.normal)
        if kind == "cut_paste":
            made.append(cut_paste(references.normal, place, np.random.default_rng([seed, 2, number])))
        else:
            made.append(perlin(references.normal[place], seed * 1009 + number))
    return dataclasses.replace(
        references,
        abnormal=references.abnormal + tuple(image for image, _ in made),
        masks=references.masks + tuple(mask for _, mask in made),
        abnormal_names=references.abnormal_names + tuple(f"{SYNTHETIC} {kind} {i}" for i in range(count)),
        defect_types=references.defect_types + (SYNTHETIC,) * count,
        mask_names=references.mask_names + ("",) * count,
        mask_origins=references.mask_origins + (SYNTHETIC,) * count,
    )


def check_synthetic(count: int, kind: str) -> None:
    """Raise ValueError unless these are a count and a kind of synthetic references."""
    if kind not in KINDS:
        raise ValueError(f"found synthetic={kind!r}, expected one of {', '.join(KINDS)}")
    if count < 0:
        raise ValueError(f"found synthetic_abnormal={count}, expected at least 0")


def cut_paste(normal: tuple[Tensor, ...], place: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A normal image (3, H, W) with a foreign piece in it, and its mask (H, W), 0/1.

    Of several random pieces the one is taken that differs most from what it covers: a piece like its surroundings would
    be no defect.
    """
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


def perlin(image: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """An image (3, H, W) with a spot of anomalib's Perlin generator, and its mask (H, W), 0/1."""
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found, mask = PerlinAnomalyGenerator(probability=1.0)(image)
    mask = mask[0].to(torch.uint8)
    if not bool(mask.any()):
        raise ValueError("found an empty spot of the Perlin generator, expected some pixels: give another seed")
    return found.clamp(0, 1), mask
