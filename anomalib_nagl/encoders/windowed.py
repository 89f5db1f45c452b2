"""An encoder of large images: another one sees them window by window, and the whole image beside that."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_nagl.encoders.base import Encoder
from anomalib_nagl.io.windows import BLOCK, FINE, Cut, between, plan_windows, pooling


class WindowedEncoder(Encoder):
    """Tokens of overlapping windows on one grid, the middle of each window kept (``io.windows``).

    ``base`` encodes windows: its ``image_size`` is that of a window. With an overview each token is two unit tokens,
    one after the other: that of its window, and that of the whole image resized to one window, between its patches.
    They are weighted so that a cosine of two tokens has ``FINE`` of the first and the rest of the second.
    """

    cut: Cut

    def __init__(self, base: Encoder, image_size: tuple[int, int], cut: Cut) -> None:
        """Wrap an encoder; ValueError for sides that are no multiples of its patch, and for too large an overlap."""
        width = base.dim * (2 if cut.overview else 1)
        super().__init__(base.name, image_size, base.patch_size, width, base.mean, base.std, base.layers)
        self.plan = plan_windows(image_size, cut.window, cut.overlap, base.patch_size)
        self.base, self.cut, self.config, self.window = base, cut, base.config, self.plan.window
        self.is_transformer, self.introduction = base.is_transformer, base.introduction
        self.register_buffer("source", torch.from_numpy(self.plan.source), persistent=False)
        for name, i in (("down", 0), ("right", 1)):
            weights = between(self.plan.inner[i], self.plan.grid[i])
            self.register_buffer(name, torch.from_numpy(weights), persistent=False)
        self.source: Tensor
        self.down: Tensor
        self.right: Tensor
        self._ready = base.weights_ready

    @property
    def weights_ready(self) -> bool:
        """Whether the weights of the encoder of windows have come."""
        return self.base.weights_ready

    @property
    def window_cells(self) -> int | None:
        """Number of patches of a window."""
        return self.plan.inner[0] * self.plan.inner[1]

    @property
    def network(self) -> Encoder:
        """The encoder of windows."""
        return self.base

    def ensure_weights(self) -> None:
        """Have the encoder of windows get its weights."""
        self.base.ensure_weights()

    def fingerprint(self) -> str:
        """That of the encoder of windows and how images are cut."""
        cut = f"{self.base.fingerprint()}|{self.cut.window}|{self.cut.overlap}|{self.cut.overview and FINE}"
        return hashlib.sha256(cut.encode()).hexdigest()[:16]

    def windows(self, images: Tensor) -> Tensor:
        """Windows (B, N, 3, h, w) of images (B, 3, H, W), with an overview the whole image last."""
        height, width = self.plan.window
        cut = [images[:, :, top : top + height, left : left + width] for top, left in self.plan.corners.tolist()]
        return torch.stack([*cut, *([self.overview(images)] if self.cut.overview else [])], dim=1)

    def overview(self, images: Tensor) -> Tensor:
        """The whole images (B, 3, H, W) at the size of a window (B, 3, h, w)."""
        pooled = F.avg_pool2d(images, pooling(self.image_size, self.plan.window))
        return F.interpolate(pooled, self.plan.window, mode="bicubic", antialias=True)

    def _tokens(self, images: Tensor) -> Tensor:
        """Encode images whose shape was checked."""
        return torch.cat([self._of_one(image[None]) for image in images]) if len(images) else self._none(images)

    def _none(self, images: Tensor) -> Tensor:
        return images.new_empty(0, self.grid[0] * self.grid[1], self.dim)

    def _of_one(self, image: Tensor) -> Tensor:
        height, width = self.plan.window
        corners = self.plan.corners.tolist()
        found, block = [], 1 if image.device.type == "cpu" else BLOCK  # one by one they stay in a processor's cache
        for start in range(0, len(corners), block):
            part = corners[start : start + block]
            found.append(self.base(torch.cat([image[:, :, t : t + height, left : left + width] for t, left in part])))
        overview = self.base(self.overview(image)) if self.cut.overview else None
        return self.stitch(torch.cat(found)[None], overview)

    def stitch(self, windows: Tensor, overview: Tensor | None) -> Tensor:
        """Tokens (B, N, m, C) of windows, those (B, m, C) of the overview if there is one -> tokens (B, M, width)."""
        fine = windows.flatten(1, 2)[:, self.source]
        if overview is None:
            return fine
        coarse = F.normalize(overview, dim=-1).unflatten(1, self.plan.inner)
        wide = torch.einsum("jk,brkc->brjc", self.right, coarse)
        coarse = torch.einsum("ir,brjc->bijc", self.down, wide).flatten(1, 2)
        return torch.cat([FINE**0.5 * F.normalize(fine, dim=-1), (1 - FINE) ** 0.5 * F.normalize(coarse, dim=-1)], -1)

    def _require_weights(self) -> None:
        self.base._require_weights()
