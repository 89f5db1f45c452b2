"""Encoder, head and the references as buffers: all that runs at test time, and all that is exported."""

from __future__ import annotations

from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import DynamicBufferMixin
from torch import Tensor, nn

from anomalib_nagl.encoders import Encoder, build_encoder
from anomalib_nagl.functional import anomaly_map, image_score, mask_to_grid, smoothing_matrix
from anomalib_nagl.head import NaglHead, NaglMaps

SIGMA, SIGMA_SIDE = 4.0, 448  # smoothing of the published maps: 4 pixels of a 448-pixel input
ENCODE_BATCH = 8


class NaglModel(DynamicBufferMixin, nn.Module):
    """NAGL over a frozen encoder.

    References enter through ``set_references`` alone. Residual mining sees references only, so its result is a
    constant: the bank of normal patches and the residual proxies are all that a query needs; the pictures are kept for
    people.
    """

    def __init__(self, encoder: Encoder, head: NaglHead) -> None:
        super().__init__()
        if encoder.dim != head.dim:
            raise ValueError(
                f"found a head of width {head.dim} for an encoder of width {encoder.dim}, expected the same"
            )
        self.encoder, self.head = encoder, head
        height, width = encoder.image_size
        rows, cols = encoder.grid
        sigma = SIGMA * min(height, width) / SIGMA_SIDE
        self.register_buffer("smooth_down", smoothing_matrix(rows, height, sigma), persistent=False)
        self.register_buffer("smooth_right", smoothing_matrix(cols, width, sigma), persistent=False)
        self.register_buffer("normal_bank", torch.empty(0, head.dim))
        self.register_buffer("residual_proxies", torch.empty(0, head.dim))
        self.register_buffer("reference_images", torch.empty(0, 3, height, width, dtype=torch.uint8))
        self.register_buffer("reference_masks", torch.empty(0, height, width, dtype=torch.bool))
        # What residual mining read: with it, a reference can be added to an exported model or taken away.
        self.register_buffer("abnormal_tokens", torch.empty(0, rows * cols, head.dim))
        self.register_buffer("abnormal_marks", torch.empty(0, rows * cols))
        self.smooth_down: Tensor
        self.smooth_right: Tensor
        self.normal_bank: Tensor
        self.residual_proxies: Tensor
        self.reference_images: Tensor
        self.reference_masks: Tensor
        self.abnormal_tokens: Tensor
        self.abnormal_marks: Tensor

    @property
    def has_references(self) -> bool:
        """Whether queries can be scored."""
        return len(self.reference_images) > 0

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (..., M, C) of normalised images (..., 3, H, W), without gradients."""
        with torch.no_grad():
            chunks = images.flatten(0, -4).split(ENCODE_BATCH)
            tokens = [self.encoder(chunk) for chunk in chunks]
            shape = (*images.shape[:-3], self.encoder.grid[0] * self.encoder.grid[1], self.encoder.dim)
            return torch.cat(tokens).view(shape) if tokens else images.new_empty(shape)

    def episode(self, query: Tensor, normal: Tensor, abnormal: Tensor, abnormal_mask: Tensor) -> NaglMaps:
        """Score training episodes, each with its own references.

        Normalised images (B, 3, H, W), (B, n, 3, H, W) and (B, a, 3, H, W), masks 0/1 (B, a, H, W).
        """
        tokens = self.encode(torch.cat([query[:, None], normal, abnormal], dim=1))
        query_tokens, normal_tokens, abnormal_tokens = tokens.split([1, normal.shape[1], abnormal.shape[1]], dim=1)
        grid = self.encoder.grid
        return self.head(query_tokens.squeeze(1), normal_tokens, abnormal_tokens, abnormal_mask, grid)

    @torch.no_grad()
    def set_references(self, normal: Tensor, abnormal: Tensor, masks: Tensor, pictures: Tensor) -> None:
        """Adapt to new references, replacing the old ones.

        Normalised images (n, 3, H, W) and (a, 3, H, W), 0/1 masks (a, H, W), and the same n + a images as uint8
        pictures to show. Raises ValueError if there are none, or no normal patch among them.
        """
        normal_tokens, abnormal_tokens = self.encode(normal)[None], self.encode(abnormal)[None]
        grid, quirks = self.encoder.grid, self.head.quirks
        marked = mask_to_grid(masks[None].float(), grid, quirks.shifted_grid) if len(abnormal) else None
        bank, valid = self.head.normal_bank(normal_tokens, abnormal_tokens, marked, grid)
        proxies = bank.new_empty(1, 0, self.head.dim)
        if marked is not None:
            proxies = self.head.mine(abnormal_tokens, marked, bank, valid, grid)
        self.normal_bank = bank[0] if valid is None else bank[0][valid[0]]
        self.residual_proxies = proxies[0]
        self.reference_images = pictures
        self.reference_masks = masks.bool()
        self.abnormal_tokens = abnormal_tokens[0]
        self.abnormal_marks = self.abnormal_marks[:0] if marked is None else marked[0]

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score normalised images (B, 3, H, W): scores (B,) and maps (B, 1, H, W), larger is more anomalous.

        Raises RuntimeError when no references were set.
        """
        if not self.has_references:
            raise RuntimeError(
                "found no references, expected at least one picture: run `anomalib train` first (with a trained "
                "head it only takes references), load a checkpoint that has them (--ckpt_path), or call set_references"
            )
        maps = self.head.detect(
            self.encoder(images),
            self.normal_bank[None],
            self.residual_proxies[None],
            self.encoder.grid,
            normal_known=len(self.reference_images) > len(self.reference_masks),
        )
        return InferenceBatch(
            pred_score=image_score(maps.score),
            anomaly_map=anomaly_map(maps.score, self.smooth_down, self.smooth_right),
        )


def build_model(
    backbone: str,
    layers: str | None,
    num_proxies: int,
    num_heads: int,
    variant: str,
    image_size: tuple[int, int],
    backbone_weights: str | None = None,
    seed: int = 0,
    config: dict[str, Any] | None = None,
) -> NaglModel:
    """Encoder and a fresh head, which ``seed`` decides; ``config`` stands in for a ``local-dir:`` folder."""
    encoder = build_encoder(backbone, image_size, layers, backbone_weights, config)
    with torch.random.fork_rng(devices=[]):  # anomalib's command line declares a seed and does not apply it
        torch.manual_seed(seed)
        return NaglModel(encoder, NaglHead(encoder.dim, num_proxies, num_heads, variant))
