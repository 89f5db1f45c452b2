"""Vision transformers of timm: normalised patch tokens of the last block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_nagl.encoders.base import check_image_size
from anomalib_nagl.encoders.timm_encoder import Backbone, TimmEncoder

GRID_OFFSET = 0.1  # of DINOv2's own resampling; it shifts every sampled position a little


class VitEncoder(TimmEncoder):
    """Last block's tokens after the final norm, without class and register tokens (specification, section 2).

    An absolute positional table stays in the state dict at its published size as ``position_table``, and the copy for
    this image size is derived from it. Hence a checkpoint made at one image size loads at any other, and the tokens do
    not depend on timm's resampling, which other models in the process may have patched.

    Attributes:
        position_table: the published table (1, P + native rows * columns, C), P entries for prefix tokens, or None.
    """

    is_transformer = True

    position_table: nn.Parameter | None

    def __init__(
        self, model: nn.Module, image_size: tuple[int, int], name: str = "vit", native: nn.Module | None = None
    ) -> None:
        """Wrap a timm transformer that has its weights.

        With ``native``, its twin at the published image size (only shapes are read, so it may lie on the meta device),
        ``model`` was built for ``image_size`` and its weights are yet to come. Raises ValueError for a size that is
        no multiple of the patch.
        """
        published: Any = model if native is None else native
        patch_size = int(published.feature_info[-1]["reduction"])
        check_image_size(image_size, patch_size, name)
        pretrained = getattr(published, "pretrained_cfg", {})
        mean, std = (pretrained.get(key, (0.5, 0.5, 0.5)) for key in ("mean", "std"))
        super().__init__(name, image_size, patch_size, int(published.embed_dim), mean, std)
        self.backbone = model
        self.prefix_tokens = int(published.num_prefix_tokens)
        self._take_table(published, native is not None)
        self._freeze()
        if native is None:
            self._weights_arrived()

    @classmethod
    def build(cls, source: Backbone, native: Any, image_size: tuple[int, int]) -> VitEncoder:
        """Build the architecture for an image size; ``native`` is its twin at the published size, without weights."""
        check_image_size(image_size, int(native.feature_info[-1]["reduction"]), source.name)
        static: dict[str, Any] = {"dynamic_img_size": False} if getattr(native, "dynamic_img_size", False) else {}
        model = source.create(device="cpu", img_size=image_size, **static)
        encoder = cls(model, image_size, source.name, native)
        encoder.source, encoder.config = source, source.config
        return encoder

    def _tokens(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.backbone.forward_features(images)  # type: ignore[operator]
        return tokens[:, self.prefix_tokens :]

    def _take_table(self, published: Any, pending: bool) -> None:
        """Move the absolute table, if there is one, from the timm model to this module."""
        table = getattr(published, "pos_embed", None)
        if not isinstance(table, Tensor):
            self.position_table = None  # rotary or relative positions: timm makes them for the size it was built with
            return
        self.native_grid: tuple[int, int] = tuple(published.patch_embed.grid_size)
        values = torch.zeros(table.shape) if pending else table.detach().clone()
        self.position_table = nn.Parameter(values)
        del self.backbone.pos_embed
        self.backbone.register_buffer(
            "pos_embed", resample_table(values, self.native_grid, self.grid), persistent=False
        )
        self.backbone.patch_embed.strict_img_size = False  # type: ignore[union-attr]

    def _weights_arrived(self) -> None:
        super()._weights_arrived()
        if self.position_table is not None:
            table = self.position_table.detach()
            self.backbone.pos_embed = resample_table(table, self.native_grid, self.grid)

    def _adopt(self, state: dict[str, Tensor]) -> None:
        assert self.source is not None
        # With a table, at the published size: nothing is left for timm to resample.
        size: dict[str, Any] = {} if self.position_table is not None else {"img_size": self.image_size}
        tensors = self.source.create(state, "cpu", **size).state_dict()
        if self.position_table is not None:
            self.position_table.copy_(tensors.pop("pos_embed"))
        self.backbone.load_state_dict(tensors)


def resample_table(table: Tensor, native_grid: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Resample a positional table (1, P + native rows * columns, C) to (1, P + rows * columns, C).

    The P prefix entries stay. Bicubic with a = -0.75, no antialias, borders clamped, and a sampling step of
    native / (n + 0.1) on each axis, as the DINOv2 authors do it (specification, section 2): target i reads at
    (i + 0.5) * native / (n + 0.1) - 0.5.
    """
    if grid == native_grid:
        return table.clone()
    prefix = table.shape[1] - native_grid[0] * native_grid[1]
    plane = table[:, prefix:].float().unflatten(1, native_grid).permute(0, 3, 1, 2)
    scales = tuple((n + GRID_OFFSET) / m for n, m in zip(grid, native_grid, strict=True))
    plane = F.interpolate(plane, scale_factor=scales, mode="bicubic", antialias=False, recompute_scale_factor=False)
    if plane.shape[-2:] != grid:
        raise ValueError(f"positional table: found {tuple(plane.shape[-2:])} after resampling, expected {grid}")
    patches = plane.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([table[:, :prefix], patches], dim=1)
