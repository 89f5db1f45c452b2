"""Resizing of images and masks: as the published code does, and as plain matrix products for an exported file."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, Resize
from torchvision.transforms.v2 import functional as transforms

LARGE = 1024  # pixels of a side up to which torchvision resizes
BAND = 64  # results of one product: they depend on a narrow band of the image only


class PillowResize(Resize):
    """Resize as the published code does: PIL's bicubic filter, rounded to 8 bits (specification, section 1)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image (..., 3, H, W) in [0, 1]; masks go torchvision's way, by nearest neighbour."""
        if isinstance(inpt, tv_tensors.Mask) or not isinstance(inpt, Tensor):
            return super().transform(inpt, params)
        if list(inpt.shape[-2:]) == list(self.size):
            return inpt
        flat = [self._resize_one(image) for image in inpt.reshape(-1, *inpt.shape[-3:])]
        resized = torch.stack(flat).reshape(*inpt.shape[:-2], *self.size).to(inpt.device)
        return tv_tensors.wrap(resized, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else resized

    def _resize_one(self, image: Tensor) -> Tensor:
        height, width = self.size
        picture = transforms.to_pil_image(image.cpu().as_subclass(Tensor))
        return transforms.pil_to_tensor(picture.resize((width, height), Image.Resampling.BICUBIC)).float() / 255


class BandResize(Resize):
    """torchvision's antialiased bicubic resize, which takes seconds where images have several megapixels.

    Floats become as large an image by products of weights with the few rows or columns that they depend on; the
    numbers are the same but for rounding in 32 bits.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image (..., H, W); masks, images of integers and small sizes go torchvision's way."""
        small = max(self.size) <= LARGE
        if small or isinstance(inpt, tv_tensors.Mask) or not isinstance(inpt, Tensor) or inpt.dtype != torch.float32:
            return super().transform(inpt, params)
        height, width = self.size
        image = inpt.as_subclass(Tensor)
        if image.shape[-1] != width:
            image = _by_bands(image, width, -1)
        if image.shape[-2] != height:
            image = _by_bands(image, height, -2)
        return tv_tensors.wrap(image, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else image


def _by_bands(image: Tensor, target: int, axis: int) -> Tensor:
    """An image with its last axis (-1) or the one before (-2) resized."""
    source, shape = image.shape[axis], list(image.shape)
    shape[axis] = target
    resized, longer = image.new_empty(shape), max(source, target)
    for first in range(0, target, BAND):
        last = min(first + BAND, target)
        begin = max(((2 * first + 1) * source - 4 * longer - target) // (2 * target), 0)
        end = min(((2 * last - 1) * source + 4 * longer) // (2 * target) + 1, source)
        column, row = torch.arange(begin, end, device=image.device), torch.arange(first, last, device=image.device)
        distance = ((2 * column + 1) * target - (2 * row[:, None] + 1) * source).abs().to(image.dtype)
        weights = _cubic((distance / (2 * longer)).clamp(max=2))
        sources, results = image.narrow(axis, begin, end - begin), resized.narrow(axis, first, last - first)
        results.copy_(sources @ weights.T if axis == -1 else weights @ sources)
    return resized


class MatrixResize(nn.Module):
    """Antialiased bicubic resize as two matrix products, for export.

    It equals torchvision's antialiased bicubic resize. Runtimes disagree about antialiased resize operators, or run
    them slowly; every one multiplies matrices. ``rounded`` rounds to 8 bits after each pass, as PIL does.
    """

    def __init__(self, size: tuple[int, int], rounded: bool = False) -> None:
        super().__init__()
        self.size, self.rounded = size, rounded

    def forward(self, images: Tensor) -> Tensor:
        """Resize images (B, 3, H, W) of any size to (B, 3, height, width)."""
        # Planes (B * 3, H, W): OpenVINO's CPU plugin takes what scales channels for a part of a product just before it,
        # along the wrong axis, and then cannot compile a graph of a fixed size.
        planes = images.flatten(0, 1)
        right = self._round(planes @ cubic_matrix(images.shape[-1], self.size[1], images).T)
        resized = self._round(cubic_matrix(images.shape[-2], self.size[0], images) @ right)
        return resized.unflatten(0, images.shape[:2])

    def _round(self, images: Tensor) -> Tensor:
        return (images * 255).round().clamp(0, 255) / 255 if self.rounded else images


def cubic_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Weights (target, source) of PIL's bicubic filter (a = -0.5) along one axis, widened when it scales down.

    Positions are kept as integers until the last division, so reduced precision cannot shift them.
    """
    column = torch.arange(source, device=like.device)
    length = column[-1:] + 1  # a tensor, so that a dynamic size stays in an exported graph
    row = torch.arange(target, device=like.device)[:, None]
    # Distance of pixel centres in units of the filter: (column + 1/2 - (row + 1/2) * source / target) / scale.
    distance = ((2 * column + 1) * target - (2 * row + 1) * length).abs().to(like.dtype)
    distance = distance / (2 * length.clamp(min=target)).to(like.dtype)
    return _cubic(distance.clamp(max=2))  # where the filter is 0


def _cubic(distance: Tensor) -> Tensor:
    """Weights (target, source) of the filter at distances from 0 to 2."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance < 1, near, far)
    return weight / weight.sum(dim=1, keepdim=True)


def keep_thin(resized: Tensor, mask: Tensor) -> Tensor:
    """A resized mask (h, w), unless nearest neighbour lost a thin defect of the mask (H, W).

    Then every pixel is marked that a part of the defect falls on.
    """
    if bool(resized.any()) or not bool(mask.any()):
        return resized
    size = (resized.shape[-2], resized.shape[-1])
    pooled = nn.functional.adaptive_max_pool2d((mask != 0).float().reshape(1, *mask.shape[-2:]), size)
    return pooled.reshape(resized.shape).to(resized.dtype)
