"""A narrow network from a wide one: the channels that matter, and last convolutions fitted to what its blocks give.

Of each block those hidden channels go, one by one, whose loss the others make up for best (optimal brain surgeon:
Hassibi and Stork, NeurIPS 1992), and the convolution behind them is fitted anew by least squares, block after block, so
that each makes up for the errors of those before it (He et al., Channel Pruning for Accelerating Very Deep Neural
Networks, ICCV 2017). All of it is closed form: minutes, and no learning rate.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomalib_nagl.encoders.builtin import BLOCKS, STEM, Block, narrow_mobilenet

WIDE_STEM = (32, 16)
WIDE = (
    (96, 24, 2), (144, 24, 1),
    (144, 32, 2), (192, 32, 1), (192, 32, 1),
    (192, 64, 2), (384, 64, 1), (384, 64, 1), (384, 64, 1),
    (384, 96, 1), (576, 96, 1), (576, 96, 1),
)  # fmt: skip


# --- the large network ----------------------------------------------------------------------------------------------


def read_teacher(folder: str) -> nn.Sequential:
    """Build the MobileNetV2 up to stride 16 in our layout, its normalisation folded into its convolutions."""
    published: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    wide = narrow_mobilenet(WIDE_STEM, WIDE)
    first = published.blocks[0][0]
    _fold(published.conv_stem, published.bn1, wide[0].expand)
    _fold(first.conv_dw, first.bn1, wide[0].depthwise)
    _fold(first.conv_pw, first.bn2, wide[0].project)
    blocks = [block for stage in published.blocks[1:5] for block in stage]
    for block, target in zip(blocks, wide[1:], strict=True):
        _fold(block.conv_pw, block.bn1, target.expand)
        _fold(block.conv_dw, block.bn2, target.depthwise)
        _fold(block.conv_pwl, block.bn3, target.project)
    return wide.requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: Any, target: nn.Conv2d) -> None:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    target.weight.copy_(convolution.weight * scale[:, None, None, None])
    target.bias.copy_(norm.bias - norm.running_mean * scale)


# --- the small network's first weights ------------------------------------------------------------------------------


@torch.no_grad()
def pruned(wide: nn.Sequential, images: Tensor) -> nn.Sequential:
    """Build the small network from the channels of the large one that matter on some images (N, 3, H, W)."""
    small = narrow_mobilenet(STEM, BLOCKS)
    of_wide = of_small = images.contiguous(memory_format=torch.channels_last)
    for whole, part in zip(wide, small, strict=True):
        of_wide = _by_chunks(whole, of_wide)
        inherit(whole, part, of_small, of_wide)
        of_small = _by_chunks(part, of_small)
    return small


def _by_chunks(layer: nn.Module, features: Tensor) -> Tensor:
    return torch.cat([layer(chunk) for chunk in features.split(16)])


def inherit(whole: Block, part: Block, features: Tensor, wanted: Tensor) -> None:
    """Fill a narrow block so that it makes, of the small network's features, what the wide network has behind it.

    Errors count by what differs within their image, or images of high contrast would decide alone.
    """
    keep, width = part.expand.out_channels, whole.expand.out_channels
    spread = (wanted - wanted.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt()
    importance = (1 / (spread + 0.2 * spread.median())).double()
    gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    product = torch.zeros(width + 1, wanted.shape[1], dtype=torch.float64)
    for chunk, goal, weight in zip(features.split(16), wanted.split(16), importance.split(16), strict=True):
        hidden = whole.hidden(chunk)
        factor = weight.repeat_interleave(hidden.shape[2] * hidden.shape[3])[:, None]
        rows = F.pad(_rows(hidden), (0, 1), value=1.0) * factor  # the last column is the bias
        gram += rows.T @ rows
        product += rows.T @ (_rows(goal - chunk if whole.adds else goal) * factor)
    kept, weights = eliminate(gram / len(features), product / len(features), keep)
    part.expand.weight.copy_(whole.expand.weight[kept])
    part.expand.bias.copy_(whole.expand.bias[kept])
    part.depthwise.weight.copy_(whole.depthwise.weight[kept])
    part.depthwise.bias.copy_(whole.depthwise.bias[kept])
    part.project.weight.copy_(weights[:-1].T[..., None, None])
    part.project.bias.copy_(weights[-1])


def _rows(features: Tensor) -> Tensor:
    """Features (N, C, h, w) as one row per place (N * h * w, C)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2).double()


def eliminate(gram: Tensor, product: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Drop regressors one by one, each time the one that costs least; the last one, the constant, stays.

    Returns the places of those kept and the weights (keep + 1, outputs) of the fit on them.
    """
    ridge = 1e-5 * gram.diagonal().mean()
    inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
    left = torch.arange(len(gram))
    while len(left) > keep + 1:
        weights = inverse @ product[left]
        cost = weights.square().sum(1) / inverse.diagonal()
        worst = int(cost[:-1].argmin())
        rest = torch.arange(len(left)) != worst
        column = inverse[rest, worst]
        inverse = inverse[rest][:, rest] - torch.outer(column, column) / inverse[worst, worst]
        left = left[rest]
    return left[:-1], (inverse @ product[left]).float()
