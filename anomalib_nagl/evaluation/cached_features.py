"""Parts that give anomalib's models the same numbers sooner: an evaluation asks them thousands of times."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from anomalib.models.components import GaussianBlur2d
from torch import Tensor, nn

LIMIT = 512 * 2**20  # bytes

Maps = dict[str, Tensor]
_cache: dict[Hashable, Maps] = {}


class ProductBlur(nn.Module):
    """A Gaussian blur as two matrix products instead of one large convolution: about twenty times faster on a CPU.

    Maps (B, 1, H, W) to the same shape, within float32 rounding (a relative 5e-6) of the blur that is given.
    """

    def __init__(self, blur: GaussianBlur2d) -> None:
        super().__init__()
        kernel = blur.kernel[0, 0]
        self.down, self.right = kernel.sum(1), kernel.sum(0)  # of a product of two that sum to 1 each
        self.border = blur.border_type

    def forward(self, maps: Tensor) -> Tensor:
        """Blur maps of any size beyond the kernel's radius."""
        return self._matrix(self.down, maps.shape[-2]) @ maps @ self._matrix(self.right, maps.shape[-1]).T

    def _matrix(self, kernel: Tensor, side: int) -> Tensor:
        radius = len(kernel) // 2
        lines = F.pad(torch.eye(side, device=kernel.device)[:, None], (radius, radius), mode=self.border)
        return F.conv1d(lines, kernel.view(1, 1, -1))[:, 0].T


class CachedFeatures(nn.Module):
    """Stands in for the feature extractor of one of anomalib's models.

    ``show`` says which images come next; the following ``forward`` returns their maps, whatever tensor it gets.
    ``read`` makes a prepared image (3, H, W) of a file; ``key`` has to differ where the maps of a file would.
    """

    def __init__(self, extractor: nn.Module, read: Callable[[Path], Tensor], key: Hashable) -> None:
        super().__init__()
        # Halves the time of depthwise convolutions on CPUs, like an image at a time instead of a batch.
        self.extractor = extractor.to(memory_format=torch.channels_last)
        self.out_dims = extractor.out_dims
        self.num_prefix_tokens = getattr(extractor, "num_prefix_tokens", 0)
        self.read, self.key = read, key
        self.shown: Maps = {}

    def show(self, paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
        """Look up or compute the maps of some files; returns blanks (B, 3, height, width) in place of images.

        They lie on the device of the maps: AnomalyDINO and RAD compute on that of the images that they get.
        """
        maps = [self._maps(path) for path in paths]
        self.shown = {layer: torch.stack([each[layer] for each in maps]) for layer in maps[0]}
        device = next(iter(self.shown.values())).device
        return torch.zeros(1, device=device).expand(len(paths), 3, *size)

    def forward(self, images: Tensor) -> Maps:
        """Maps (B, C, h, w) by layer of the images shown last."""
        return self.shown

    @torch.no_grad()
    def _maps(self, path: Path) -> Maps:
        place = (self.key, path)
        if place not in _cache:
            if sum(each.nbytes for maps in _cache.values() for each in maps.values()) > LIMIT:
                _cache.clear()  # images are asked for category by category, the last one is seldom asked for again
            computed = self.extractor(self.read(path)[None])
            _cache[place] = {layer: each[0].contiguous() for layer, each in computed.items()}
        return _cache[place]
