"""Synthetic defects by anomalib's Perlin generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from torch import Tensor

from anomalib_nagl.references.synthetic import METHODS


def perlin(normal: Sequence[Tensor], place: int, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Blend a textured spot into a normal image; a method of ``references.synthetic``.

    Raises ValueError when the generator makes an empty spot.
    """
    seed, number = key
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1009 + number)
        image, mask = PerlinAnomalyGenerator(probability=1.0)(normal[place])
    mask = mask[0].to(torch.uint8)
    if not bool(mask.any()):
        raise ValueError("found an empty spot of the Perlin generator, expected some pixels: give another seed")
    return image.clamp(0, 1), mask


METHODS["perlin"] = perlin
