"""References of any size at the size of the network input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2 import functional as transforms

from anomalib_nagl.bank.patch_masks import resize_mask
from anomalib_nagl.references.reference_set import ReferenceSet


class PreparedReferences(NamedTuple):
    """References at the size of the network input.

    Normalised images (n, 3, H, W) and (a, 3, H, W), masks (a, H, W), n + a images (3, H, W) as uint8 to show, and
    which abnormal images have no mask, (a,).
    """

    normal: Tensor
    abnormal: Tensor
    masks: Tensor
    images: Tensor
    unmasked: Tensor


def prepare_references(references: ReferenceSet, transform: Transform, size: tuple[int, int]) -> PreparedReferences:
    """Bring references of any size to the network input (height, width), as ``transform`` does with queries."""
    normal = [transform(image) for image in references.normal]
    abnormal = [transform(image) for image in references.abnormal]
    nothing = torch.zeros(size, dtype=torch.bool)
    masks = [
        nothing if mask is None else torch.from_numpy(resize_mask(mask.numpy(), size)) for mask in references.masks
    ]
    shown = [
        (transforms.resize(image, list(size), antialias=True).clamp(0, 1) * 255).round().to(torch.uint8)
        for image in references.normal + references.abnormal
    ]
    return PreparedReferences(
        _stack(normal, (3, *size)),
        _stack(abnormal, (3, *size)),
        _stack(masks, size).bool(),
        _stack(shown, (3, *size)),
        torch.tensor([mask is None for mask in references.masks], dtype=torch.bool),
    )


def _stack(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    plain = [tensor.as_subclass(Tensor).reshape(shape) for tensor in tensors]
    return torch.stack(plain) if plain else torch.empty(0, *shape)
