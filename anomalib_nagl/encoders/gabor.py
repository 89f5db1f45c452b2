"""The weight-free encoder: how much texture of which direction and fineness, patch by patch."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.filters import gabor_kernel
from torch import Tensor

from anomalib_nagl.encoders.base import Encoder, check_image_size

PATCH = 16  # pixels
ORIENTATIONS = 8
FREQUENCIES = (0.33, 0.2)  # cycles per pixel; halving the image fills the octaves below
SCALES = 3  # the image itself, its half, its quarter
COLOUR_WEIGHT = 0.5
CONSTANT = 0.25
# Keeps square roots off zero, where runtimes that sum in another order would disagree.
ENERGY_FLOOR = 1e-8
VARIANCE_FLOOR = 1e-4


class GaborEncoder(Encoder):
    """Oriented band-pass energies pooled over patches of 16 pixels, and colour statistics; nothing is learned.

    A token holds the mean energy of 8 orientations at 6 frequencies (energy = length of the even and odd response),
    less their common mean, then mean and spread of red, green and blue, the spread of grey, and a constant: 56
    numbers. Energies are all positive, so any two raw tokens point much the same way and their cosine says little;
    without the common mean it compares *which* directions and scales prevail. The constant gives a blank patch a
    direction of its own.

    This is texture matching: it tells damaged regular patterns (boards, weaves) from whole ones and knows no objects.
    Input is RGB normalised by mean 0.5 and std 0.5, i.e. in [-1, 1].
    """

    introduction = "a bank of filters that compares textures only"

    def __init__(self, image_size: tuple[int, int], name: str = "gabor") -> None:
        """Compute the kernels; raises ValueError for a size that is no multiple of 16."""
        check_image_size(image_size, PATCH, name)
        dim = SCALES * len(FREQUENCIES) * ORIENTATIONS + 8
        super().__init__(name, image_size, PATCH, dim, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        for index, frequency in enumerate(FREQUENCIES):
            # Not persistent: they follow from the constants above, a checkpoint need not hold them.
            self.register_buffer(f"kernels_{index}", gabor_bank(frequency, ORIENTATIONS), persistent=False)
        self._ready = True
        self._freeze()

    def _tokens(self, images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        energies, scaled = [], grey
        for scale in range(SCALES):
            energies += [F.avg_pool2d(energy, PATCH >> scale) for energy in self._energies(scaled)]
            scaled = F.avg_pool2d(scaled, 2)
        texture = torch.cat(energies, dim=1)
        texture = texture - texture.mean(dim=1, keepdim=True)
        channels = torch.cat([images, grey], dim=1)
        mean = F.avg_pool2d(channels, PATCH)
        variance = F.avg_pool2d(channels * channels, PATCH) - mean * mean
        spread = (variance.clamp_min(0) + VARIANCE_FLOOR).sqrt()
        constant = torch.full_like(mean[:, :1], CONSTANT)
        colour = COLOUR_WEIGHT * torch.cat([mean[:, :3], spread], dim=1)
        return torch.cat([texture, colour, constant], dim=1).flatten(2).transpose(1, 2)

    def _energies(self, grey: Tensor) -> list[Tensor]:
        """Response energy (B, orientations, h, w) of a grey image (B, 1, h, w), one tensor per frequency."""
        energies = []
        for kernels in self._banks():
            margin = kernels.shape[-1] // 2
            # Zeros outside the image would look like an edge all around it.
            padded = F.pad(grey, (margin, margin, margin, margin), mode="replicate")
            even, odd = F.conv2d(padded, kernels).chunk(2, dim=1)
            energies.append((even * even + odd * odd + ENERGY_FLOOR).sqrt())
        return energies

    def _banks(self) -> list[Tensor]:
        return [self.get_buffer(f"kernels_{index}") for index in range(len(FREQUENCIES))]

    def _fingerprinted(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())


def gabor_bank(frequency: float, orientations: int) -> Tensor:
    """Gabor kernels of one frequency (cycles per pixel), (2 * orientations, 1, k, k): all even ones, then all odd ones.

    Every kernel sums to zero, so brightness alone gives no response, and its absolute values sum to 2: a full black
    to white swing of [-1, 1] can give 2 at most.
    """
    kernels = [gabor_kernel(frequency, theta=math.pi * i / orientations) for i in range(orientations)]
    side = max(max(kernel.shape) for kernel in kernels)
    phases = [_balanced(kernel.real, np.abs(kernel)) for kernel in kernels] + [kernel.imag for kernel in kernels]
    bank = np.zeros((len(phases), 1, side, side), dtype=np.float32)
    for target, phase in zip(bank, phases, strict=True):
        top, left = ((side - length) // 2 for length in phase.shape)
        target[0, top : top + phase.shape[0], left : left + phase.shape[1]] = 2 * phase / np.abs(phase).sum()
    return torch.from_numpy(bank)


def _balanced(even: NDArray[np.floating], envelope: NDArray[np.floating]) -> NDArray[np.floating]:
    """Take so much of its own envelope off an even kernel that it sums to zero."""
    balanced: NDArray[np.floating] = even - envelope * (even.sum() / envelope.sum())
    return balanced
