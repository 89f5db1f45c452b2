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
    distance = distance.clamp(max=2)  # where the filter is 0
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
