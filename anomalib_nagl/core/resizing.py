"""Resizing of images and masks: as the published code does, and as plain matrix products for an exported file."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, Resize
from torchvision.transforms.v2 import functional as transforms


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
        right = self._round(images @ cubic_matrix(images.shape[-1], self.size[1], images).T)
        return self._round(cubic_matrix(images.shape[-2], self.size[0], images) @ right)

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
    distance = distance.clamp(max=2)  # where the filter is 0
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance < 1, near, far)
    return weight / weight.sum(dim=1, keepdim=True)


def mask_to_input(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a mask (H, W) to the network input (height, width): 0/1, non-zero stays non-zero.

    Nearest neighbour with source index t * H // height, in integers so that every runtime picks the same pixel. If that
    loses a thin defect, every pixel is marked that a part of it falls on (``keep_thin`` does the same in one process).
    """
    marked = (mask != 0).to(torch.float32)
    rows, cols = (
        torch.arange(target, device=mask.device) * source // target
        for source, target in zip(mask.shape, size, strict=True)
    )
    nearest = marked[rows[:, None], cols]
    touched = _overlap(mask.shape[0], size[0], marked) @ marked @ _overlap(mask.shape[1], size[1], marked).T
    return torch.where(nearest.sum() > 0, nearest, (touched > 0).to(torch.float32))


def _overlap(source: int, target: int, like: Tensor) -> Tensor:
    """0/1 (target, source): which source pixels a target pixel covers any part of, along one axis."""
    place = torch.arange(source, device=like.device)
    first = torch.arange(target, device=like.device)[:, None]
    length = place[-1:] + 1  # a tensor, so that a dynamic size stays in an exported graph
    inside = (place * target < (first + 1) * length) & ((place + 1) * target > first * length)
    return inside.to(like.dtype)
