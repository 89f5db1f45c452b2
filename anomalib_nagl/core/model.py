"""Encoder, head and the adapted state: encode, adapt, score, three steps that can be taken apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomalib_nagl.bank import adapted
from anomalib_nagl.bank.adapted import Dimensions, Limits, ReferencePatches, normal_owners
from anomalib_nagl.bank.interest import as_drawn, inside_patches
from anomalib_nagl.bank.maps import smoothing_sigma
from anomalib_nagl.bank.mining import mined
from anomalib_nagl.bank.patch_masks import guess_patch_mask, patch_mask
from anomalib_nagl.bank.views import symmetries
from anomalib_nagl.core.functional import patches_to_pixels, smoothing_matrix
from anomalib_nagl.core.head import NaglHead, NaglMaps
from anomalib_nagl.core.interest import decisive, maps_within, shown, within
from anomalib_nagl.core.reference_similarity import OwnedPatches, deciding, reference_similarity
from anomalib_nagl.core.state import AdaptedState, ReferenceTokens, as_array
from anomalib_nagl.core.views import in_views, stack_views
from anomalib_nagl.encoders import Encoder
from anomalib_nagl.io.model_facts import MOST

ENCODE_BATCH = 8


class ImageScores(NamedTuple):
    """Image scores (B,) and anomaly maps (B, 1, H, W); larger is more anomalous."""

    pred_score: Tensor
    anomaly_map: Tensor


class NaglModel(nn.Module):
    """NAGL over a frozen encoder.

    ``encode`` makes tokens of images, ``adapt`` an ``AdaptedState`` of the tokens of references, ``score`` patch scores
    of the tokens of queries. None of them changes the model: ``use`` puts a state into its buffers, which go into
    checkpoints and exported files. Images of references are kept for people alone.
    """

    def __init__(self, encoder: Encoder, head: NaglHead, views: str = "none") -> None:
        super().__init__()
        if encoder.dim != head.dim:
            raise ValueError(
                f"found a head of width {head.dim} for an encoder of width {encoder.dim}, expected the same"
            )
        self.encoder, self.head = encoder, head
        self.views, self.symmetries = views, symmetries(views, encoder.image_size)
        (height, width), (rows, cols) = encoder.image_size, encoder.grid
        patches = len(self.symmetries) * rows * cols
        if patches > MOST:
            raise ValueError(
                f"found {patches} patches of an image in {len(self.symmetries)} views, expected {MOST} at most: take a "
                "smaller image_size, or views none"
            )
        sigma = smoothing_sigma(encoder.window)
        self.register_buffer("smooth_down", smoothing_matrix(rows, height, sigma), persistent=False)
        self.register_buffer("smooth_right", smoothing_matrix(cols, width, sigma), persistent=False)
        for tensor in adapted.TENSORS:
            self.register_buffer(tensor.name, torch.from_numpy(tensor.empty(self.dimensions)))
        self.register_buffer("region", torch.ones(1, 1))  # of interest: it stays, whatever references come
        self.register_buffer("normal_owners", torch.empty(0, dtype=torch.long))
        # What the state was made of: to show, to add a reference on a box, to say which one a query is like.
        self.register_buffer("reference_images", torch.empty(0, 3, height, width, dtype=torch.uint8))
        self.register_buffer("reference_masks", torch.empty(0, height, width, dtype=torch.bool))
        self.register_buffer("normal_tokens", torch.empty(0, patches, head.dim))
        self.register_buffer("abnormal_tokens", torch.empty(0, patches, head.dim))
        self.register_buffer("abnormal_patch_mask", torch.empty(0, rows * cols))
        self.register_buffer("abnormal_localized", torch.empty(0, dtype=torch.bool))
        self.smooth_down: Tensor
        self.smooth_right: Tensor
        self.normal_bank: Tensor
        self.region: Tensor
        self.normal_owners: Tensor
        self.reference_images: Tensor
        self.reference_masks: Tensor
        self.normal_tokens: Tensor
        self.abnormal_tokens: Tensor
        self.abnormal_patch_mask: Tensor
        self.abnormal_localized: Tensor

    @property
    def dimensions(self) -> Dimensions:
        """Width of tokens and number of proxies."""
        return Dimensions(self.head.dim, self.head.learnable_proxies.num_embeddings)

    @property
    def has_references(self) -> bool:
        """Whether queries can be scored."""
        return len(self.reference_images) > 0

    @property
    def n_normal(self) -> int:
        """Number of normal references."""
        return len(self.reference_images) - len(self.reference_masks)

    @property
    def state(self) -> AdaptedState:
        """What is in the buffers."""
        return AdaptedState({tensor.name: getattr(self, tensor.name) for tensor in adapted.TENSORS}, self.normal_owners)

    def set_region(self, mask: NDArray[np.bool_] | None) -> bool:
        """Look only where a mask (h, w) of any size, stretched to the network input, is true; None looks everywhere.

        What is known of references follows with the next ``adapt``. Returns whether it is another region than before.
        """
        before, drawn = self.region, torch.tensor(as_drawn(mask, self.encoder.image_size))
        self.region = drawn.to(before)
        return not torch.equal(before, self.region)

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
    def encode_references(
        self, normal: Tensor, abnormal: Tensor, masks: Tensor, unmasked: Tensor | None = None
    ) -> ReferenceTokens:
        """Encode references: normalised images (n, 3, H, W) and (a, 3, H, W), masks (a, H, W) of the same size.

        For those that are ``unmasked`` (a,) the abnormal patches are guessed (``bank.patch_masks``). Raises ValueError
        if one is, and no normal reference is there to compare with.
        """
        return self.reference_tokens(self.encode_views(normal), self.encode_views(abnormal), masks, unmasked)

    def encode_views(self, images: Tensor) -> Tensor:
        """Tokens (n, V * M, C) of all views of normalised reference images (n, 3, H, W), one view after the other."""
        return self.encode(stack_views(images, self.symmetries)).flatten(1, 2)

    def reference_tokens(
        self, normal: Tensor, abnormal: Tensor, masks: Tensor, unmasked: Tensor | None = None
    ) -> ReferenceTokens:
        """The same for tokens (n, V * M, C) and (a, V * M, C) that are there already."""
        guessed = [False] * len(abnormal) if unmasked is None else unmasked.tolist()
        if any(guessed) and not len(normal):
            raise ValueError(
                "found abnormal references without masks and no normal one to compare with, expected either: "
                "add masks or a normal image"
            )
        grid, shifted, known = self.encoder.grid, self.head.variant.shifted_grid, as_array(normal.flatten(0, 1))
        upright, inside = grid[0] * grid[1], inside_patches(as_array(self.region), grid)
        marked = [
            guess_patch_mask(as_array(tokens[:upright]), known, inside)
            if guess
            else patch_mask(as_array(mask), grid, shifted)
            for tokens, mask, guess in zip(abnormal, masks, guessed, strict=True)
        ]
        stacked = np.stack(marked) if marked else np.zeros((0, grid[0] * grid[1]), np.float32)
        localized = ~torch.tensor(guessed, dtype=torch.bool) & torch.from_numpy(~(stacked > 0).all(axis=1))
        return ReferenceTokens(normal, abnormal, torch.from_numpy(stacked).to(normal), localized.to(normal.device))

    @torch.no_grad()
    def adapt(self, tokens: ReferenceTokens, limit: int | None = None) -> AdaptedState:
        """Make of references what a query is compared with; ``limit`` bounds it, see ``bank.adapted.Limits``.

        What is decided once is decided on the CPU in float32, by the rules of ``bank.adapted``, as on the box. Raises
        ValueError when there are no references, or no normal patch among them.
        """
        patches, like = self.patches(tokens, limit), tokens.normal
        state = {name: torch.from_numpy(array).to(like) for name, array in adapted.assemble(patches).items()}
        proxies = like.new_zeros(self.dimensions.proxies, self.dimensions.width)
        if patches.abnormal and self.head.variant.proxies:
            abnormal, marked = (torch.from_numpy(array).to(like)[None] for array in mined(patches))
            proxies = self.head.mine(abnormal, marked, state["normal_bank"][None], None, self.encoder.grid)[0]
        owners = torch.from_numpy(normal_owners(patches)).to(like.device)
        return AdaptedState({**state, "residual_proxies": proxies}, owners)

    def patches(self, tokens: ReferenceTokens, limit: int | None = None) -> ReferencePatches:
        """References as the rules of ``bank.adapted`` read them: float32 on the CPU."""
        variant = self.head.variant
        return ReferencePatches.of(
            list(as_array(tokens.normal)),
            as_array(tokens.abnormal),
            as_array(tokens.patch_mask),
            tokens.localized.cpu().numpy(),
            self.encoder.grid,
            variant.context,
            Limits.of(limit),
            variant.shared_mining,
            tokens.keys,
            self.symmetries,
            as_array(self.region),
        )

    def use(self, state: AdaptedState, tokens: ReferenceTokens, images: Tensor, masks: Tensor) -> None:
        """Put a state into the buffers, with the n + a reference images (3, H, W) as uint8 and the masks (a, H, W).

        Masks that were guessed are shown as the patches that they are.
        """
        for name, tensor in state.tensors.items():
            setattr(self, name, tensor)
        self.normal_owners = state.owners
        self.normal_tokens, self.abnormal_tokens = tokens.normal, tokens.abnormal
        self.abnormal_patch_mask, self.abnormal_localized = tokens.patch_mask, tokens.localized
        self.reference_images, self.reference_masks = images, masks.bool()

    @torch.no_grad()
    def set_references(
        self,
        normal: Tensor,
        abnormal: Tensor,
        masks: Tensor,
        images: Tensor,
        unmasked: Tensor | None = None,
        limit: int | None = None,
        keys: tuple[str, ...] = (),
    ) -> ReferenceTokens:
        """Encode, adapt and use references, replacing the old ones; see these three for arguments and errors."""
        tokens = self.encode_references(normal, abnormal, masks, unmasked)._replace(keys=keys)
        if unmasked is not None and bool(unmasked.any()):
            masks = masks.clone()
            size = masks.shape[-2], masks.shape[-1]
            masks[unmasked] = patches_to_pixels(tokens.patch_mask[unmasked], self.encoder.grid, size).to(masks.dtype)
        self.use(self.adapt(tokens, limit), tokens, images, masks)
        return tokens

    @torch.no_grad()
    def adapt_again(self, limit: int | None = None, keys: tuple[str, ...] = ()) -> ReferenceTokens:
        """Adapt anew to the references that are there, as after a change of the region; returns their tokens."""
        known = self.abnormal_patch_mask, self.abnormal_localized
        tokens = ReferenceTokens(self.normal_tokens, self.abnormal_tokens, *known, keys)
        self.use(self.adapt(tokens, limit), tokens, self.reference_images, self.reference_masks)
        return tokens

    def forward(self, images: Tensor) -> ImageScores:
        """Score normalised images (B, 3, H, W); RuntimeError when no references were set."""
        return self.predictions(self.score(self.encoder(images)).score)

    def score(self, tokens: Tensor, state: AdaptedState | None = None) -> NaglMaps:
        """Score the patches of encoded images (B, M, C) by a state, or by the one in the buffers.

        Raises RuntimeError when there is none.
        """
        if state is None and not self.has_references:
            raise RuntimeError(
                "found no references, expected at least one image: run `anomalib train` first (with a trained "
                "head it only takes references), load a checkpoint that has them (--ckpt_path), or call set_references"
            )
        return self.head.score(tokens, (state or self.state).batched(), self.encoder.grid)

    def predictions(self, score: Tensor, region: Tensor | None = None) -> ImageScores:
        """Image scores and anomaly maps of patch scores (B, M), within a ``region`` or the model's own."""
        looked, smoothing = self.region if region is None else region, (self.smooth_down, self.smooth_right)
        return ImageScores(*maps_within(score, looked, self.encoder.grid, *smoothing, self.encoder.window_cells))

    def similarity(self, tokens: Tensor, score: Tensor) -> Tensor:
        """How alike queries and each of the n + a references are (B, n + a), see ``reference_similarity``."""
        normal = OwnedPatches(self.normal_bank[: len(self.normal_owners)], self.normal_owners, self.n_normal)
        inside = shown(self.region, self.encoder.image_size, self.encoder.grid).patches
        marked = in_views(self.abnormal_patch_mask * inside, self.encoder.grid, self.symmetries) > 0
        abnormal = OwnedPatches(self.abnormal_tokens[marked], marked.nonzero()[:, 0], len(self.reference_masks))
        return reference_similarity(tokens, within(score, inside), normal, abnormal, int(decisive(inside)))

    def deciding(self, tokens: Tensor, score: Tensor) -> Tensor:
        """The patches (B, K, C) of queries that decide their score, within the region."""
        inside = shown(self.region, self.encoder.image_size, self.encoder.grid).patches
        return deciding(tokens, within(score, inside), int(decisive(inside)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take buffers of any number of references."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
