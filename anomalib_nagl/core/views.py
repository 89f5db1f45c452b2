"""Views of images as tensors: the rules are those of ``bank.views``."""

from __future__ import annotations

import torch
from torch import Tensor

from anomalib_nagl.bank.views import origins


def stack_views(images: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Images (n, 3, H, W) in each view: (n, V, 3, H, W). Quarter turns need square ones."""
    return torch.stack(
        [torch.rot90(images.flip(-1) if number >= 4 else images, number % 4, (-2, -1)) for number in numbers], dim=1
    )


def in_views(marked: Tensor, grid: tuple[int, int], numbers: tuple[int, ...]) -> Tensor:
    """Values (a, M) of the patches of images as they are, for the patches of all their views: (a, V * M)."""
    return marked[:, torch.from_numpy(origins(grid, numbers)).to(marked.device)]
