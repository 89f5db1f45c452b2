"""Convolutional networks of timm: one or more stages as patch tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_nagl.encoders.base import check_image_size
from anomalib_nagl.encoders.timm_encoder import Backbone, TimmEncoder

PREFERRED_STRIDE = 16  # fine enough to localise, deep enough to mean something; also a ViT's usual patch


class CnnEncoder(TimmEncoder):
    """Feature stages, resized to the finest of them and concatenated.

    ``layers`` names stages by index or by timm's module name, separated by commas; without it the stage of stride 16
    is taken, or the deepest below 32. The patch is the stride of the finest stage, ``dim`` the sum of their channels.
    """

    def __init__(self, source: Backbone, image_size: tuple[int, int], layers: str | None = None) -> None:
        """Build the network up to its deepest chosen stage.

        Raises ValueError for unknown stages, for a size that is no multiple of the coarsest stride, and for networks
        whose stages are not exactly H / stride (those without padding).
        """
        try:
            probe: Any = source.create(features_only=True)
        except (RuntimeError, TypeError, AssertionError, AttributeError) as error:  # what timm raises for the others
            raise ValueError(f"backbone {source.name}: timm cannot extract its features ({error})") from error
        stages: list[dict[str, Any]] = list(probe.feature_info.info)
        indices = choose_stages(stages, layers, source.name)
        strides = [int(stages[i]["reduction"]) for i in indices]
        check_image_size(image_size, max(strides), source.name)
        dim = sum(int(stages[i]["num_chs"]) for i in indices)
        pretrained = probe.pretrained_cfg
        super().__init__(
            source.name, image_size, min(strides), dim, pretrained["mean"], pretrained["std"], layers=layers
        )
        self.source: Backbone = source
        self.config = source.config
        self._arguments: dict[str, Any] = {"features_only": True, "out_indices": indices}
        if pretrained.get("fixed_input_size"):
            self._arguments["img_size"] = image_size
        self._check_grids(strides)
        # Channels last halves the time of depthwise convolutions on CPUs; the weights' layout decides.
        self.backbone = source.create(device="cpu", **self._arguments).to(memory_format=torch.channels_last)
        self._freeze()

    def _tokens(self, images: Tensor) -> Tensor:
        maps = [
            stage
            if stage.shape[-2:] == self.grid
            else F.interpolate(stage, size=self.grid, mode="bilinear", align_corners=False)
            for stage in _stages(self.backbone, images)
        ]
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    def _check_grids(self, strides: list[int]) -> None:
        """Run the network on shapes alone and compare its grids with the promised ones."""
        height, width = self.image_size
        maps = _stages(self.source.create(**self._arguments).eval(), torch.empty(1, 3, height, width, device="meta"))
        found = [tuple(stage.shape[-2:]) for stage in maps]
        expected = [(height // stride, width // stride) for stride in strides]
        if found != expected:
            raise ValueError(
                f"backbone {self.name}: found stage grids {found} at {height}x{width}, expected {expected}: use a "
                "network that pads its convolutions, or a transformer"
            )

    def _adopt(self, state: dict[str, Tensor]) -> None:
        self.backbone.load_state_dict(self.source.create(state, "cpu", **self._arguments).state_dict())


def choose_stages(stages: list[dict[str, Any]], layers: str | None, name: str) -> tuple[int, ...]:
    """Indices of the stages that ``layers`` asks for, in the order of the network, or of the default one.

    ``stages`` is timm's feature information: module, reduction and num_chs of each. Raises ValueError for an unknown or
    repeated stage.
    """
    if layers is None:
        preferred = [i for i, stage in enumerate(stages) if stage["reduction"] == PREFERRED_STRIDE]
        shallow = [i for i, stage in enumerate(stages) if stage["reduction"] < 2 * PREFERRED_STRIDE]
        return ((preferred or shallow or [len(stages) - 1])[-1],)
    names = {str(stage["module"]): i for i, stage in enumerate(stages)} | {str(i): i for i in range(len(stages))}
    wanted = [part.strip() for part in str(layers).split(",")]
    indices = sorted({names[part] for part in wanted if part in names})
    if len(indices) != len(wanted):
        choices = ", ".join(f"{i} = {stage['module']} (stride {stage['reduction']})" for i, stage in enumerate(stages))
        raise ValueError(
            f"layers of {name}: found {layers!r}, expected stages separated by commas, each once: {choices}"
        )
    return tuple(indices)


def _stages(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Feature maps (B, C, h, w) of the chosen stages, channels first whatever the network uses."""
    maps: list[Tensor] = network(images)
    channels_last = getattr(network, "output_fmt", None) == "NHWC"
    return [stage.permute(0, 3, 1, 2) if channels_last else stage for stage in maps]
