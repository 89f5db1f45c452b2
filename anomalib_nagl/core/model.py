"""Encoder, head and the references as buffers: all that runs at test time, and all that is exported."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import DynamicBufferMixin, KCenterGreedy
from torch import Tensor, nn

from anomalib_nagl.core.functional import (
    anomaly_map,
    deviating_patches,
    image_score,
    mask_to_grid,
    nearest,
    smoothing_matrix,
    unit,
)
from anomalib_nagl.core.head import NaglHead, NaglMaps
from anomalib_nagl.core.reference_similarity import OwnedPatches, reference_similarity
from anomalib_nagl.encoders import Encoder, build_encoder

SIGMA, SIGMA_SIDE = 4.0, 448  # smoothing of the published maps: 4 pixels of a 448-pixel input
ENCODE_BATCH = 8


class ReferenceTokens(NamedTuple):
    """Tokens (n, M, C) and (a, M, C) of references, and which patches (a, M) of the abnormal ones are abnormal.

    ``located`` (a,) are those whose mask was given and tells where the defect is.
    """

    normal: Tensor
    abnormal: Tensor
    marked: Tensor
    located: Tensor


class NaglModel(DynamicBufferMixin, nn.Module):
    """NAGL over a frozen encoder.

    References enter through ``set_references`` alone. Residual mining sees references only, so its result is a
    constant: the bank of normal patches, the residual proxies and the patches of known defects are all that a query
    needs; the pictures are kept for people.
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
        self.register_buffer("defect_bank", torch.empty(0, head.dim))
        # Whose the patches of the bank are: those of normal references, which come first.
        self.register_buffer("normal_owner", torch.empty(0, dtype=torch.long))
        self.register_buffer("reference_images", torch.empty(0, 3, height, width, dtype=torch.uint8))
        self.register_buffer("reference_masks", torch.empty(0, height, width, dtype=torch.bool))
        # What residual mining read: to add a reference to an exported model, and to say which one a query resembles.
        self.register_buffer("abnormal_tokens", torch.empty(0, rows * cols, head.dim))
        self.register_buffer("abnormal_marks", torch.empty(0, rows * cols))
        self.register_buffer("abnormal_located", torch.empty(0, dtype=torch.bool))
        self.smooth_down: Tensor
        self.smooth_right: Tensor
        self.normal_bank: Tensor
        self.residual_proxies: Tensor
        self.defect_bank: Tensor
        self.normal_owner: Tensor
        self.reference_images: Tensor
        self.reference_masks: Tensor
        self.abnormal_tokens: Tensor
        self.abnormal_marks: Tensor
        self.abnormal_located: Tensor

    @property
    def has_references(self) -> bool:
        """Whether queries can be scored."""
        return len(self.reference_images) > 0

    @property
    def n_normal(self) -> int:
        """Number of normal references."""
        return len(self.reference_images) - len(self.reference_masks)

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
    def set_references(
        self,
        normal: Tensor,
        abnormal: Tensor,
        masks: Tensor,
        pictures: Tensor,
        unmasked: Tensor | None = None,
        bank_limit: int | None = None,
    ) -> ReferenceTokens:
        """Adapt to new references, replacing the old ones.

        Normalised images (n, 3, H, W) and (a, 3, H, W), 0/1 masks (a, H, W), and the same n + a images as uint8
        pictures to show. Images that are ``unmasked`` (a,) get the mask that ``deviating_patches`` finds. Queries are
        compared with a coreset of ``bank_limit`` patches of normal references if there are more. Raises ValueError if
        there are no references, or no normal patch among them.
        """
        grid, quirks = self.encoder.grid, self.head.quirks
        normal_tokens, abnormal_tokens = self.encode(normal), self.encode(abnormal)
        marked = normal_tokens.new_zeros(0, grid[0] * grid[1])
        if len(abnormal):
            marked = mask_to_grid(masks[None].float(), grid, quirks.shifted_grid)[0]
        if unmasked is not None and bool(unmasked.any()):
            found = self._find_defects(normal_tokens, abnormal_tokens[unmasked])
            marked[unmasked] = found
            masks = masks.clone()
            masks[unmasked] = _patches_to_pixels(found, grid, (masks.shape[-2], masks.shape[-1])).to(masks.dtype)
        located = ~marked.bool().all(dim=1) if unmasked is None else ~marked.bool().all(dim=1) & ~unmasked
        tokens = ReferenceTokens(normal_tokens, abnormal_tokens, marked, located)
        bank, self.residual_proxies, self.defect_bank = self.head.learn(*tokens, grid)
        own = normal_tokens.shape[:2].numel() or len(bank)
        kept = coreset(bank[:own], bank_limit if len(normal) else None)
        self.normal_bank, self.normal_owner = torch.cat([bank[kept], bank[own:]]), kept // (grid[0] * grid[1])
        self.abnormal_tokens, self.abnormal_marks, self.abnormal_located = abnormal_tokens, marked, located
        self.reference_images = pictures
        self.reference_masks = masks.bool()
        return tokens

    @staticmethod
    def _find_defects(normal: Tensor, abnormal: Tensor) -> Tensor:
        """Patches (a, M) of abnormal tokens (a, M, C) that deviate most from the normal ones (n, M, C)."""
        if not len(normal):
            raise ValueError(
                "found abnormal references without masks and no normal one to compare with, expected either: "
                "add masks or a normal picture"
            )
        similarity = nearest(unit(abnormal), unit(normal.flatten(0, 1))[None]).similarity
        return deviating_patches(1 - similarity)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score normalised images (B, 3, H, W): scores (B,) and maps (B, 1, H, W), larger is more anomalous.

        Raises RuntimeError when no references were set.
        """
        return self.predictions(self.detect(self.encoder(images)).score)

    def detect(self, tokens: Tensor) -> NaglMaps:
        """Score the patches of encoded images (B, M, C); RuntimeError when no references were set."""
        if not self.has_references:
            raise RuntimeError(
                "found no references, expected at least one picture: run `anomalib train` first (with a trained "
                "head it only takes references), load a checkpoint that has them (--ckpt_path), or call set_references"
            )
        return self.head.detect(
            tokens,
            self.normal_bank[None],
            self.residual_proxies[None],
            self.encoder.grid,
            self.defect_bank[None],
            normal_known=self.n_normal > 0,
        )

    def predictions(self, score: Tensor) -> InferenceBatch:
        """Image scores and anomaly maps of patch scores (B, M)."""
        return InferenceBatch(
            pred_score=image_score(score), anomaly_map=anomaly_map(score, self.smooth_down, self.smooth_right)
        )

    def similarity(self, tokens: Tensor, score: Tensor) -> Tensor:
        """How alike queries and each of the n + a references are (B, n + a), see ``reference_similarity``."""
        normal = OwnedPatches(self.normal_bank[: len(self.normal_owner)], self.normal_owner, self.n_normal)
        marked = self.abnormal_marks > 0
        abnormal = OwnedPatches(self.abnormal_tokens[marked], marked.nonzero()[:, 0], len(self.reference_masks))
        return reference_similarity(tokens, score, normal, abnormal)


def _patches_to_pixels(marked: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Whole patches (a, M) as pixels (a, H, W)."""
    cells = marked.unflatten(-1, grid)
    return cells.repeat_interleave(size[0] // grid[0], dim=-2).repeat_interleave(size[1] // grid[1], dim=-1)


def coreset(bank: Tensor, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` patches of a bank (K, C), spread out by anomalib's greedy selection.

    The same ones each time; all of them without a limit.
    """
    if not limit or len(bank) <= limit:
        return torch.arange(len(bank), device=bank.device)
    sampler = KCenterGreedy(unit(bank), (limit + 0.5) / len(bank))
    sampler.model.random_state = 0  # of its projection, which no other seed reaches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.tensor(sampler.select_coreset_idxs(), device=bank.device).sort().values


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
