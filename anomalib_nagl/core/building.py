"""A model from plain settings."""

from __future__ import annotations

from typing import Any

import torch

from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.encoders import build_encoder
from anomalib_nagl.io.windows import Cut


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
    views: str = "none",
    cut: Cut | None = None,
) -> NaglModel:
    """Encoder and a fresh head, which ``seed`` decides; ``config`` stands in for a ``local-dir:`` folder.

    ``views`` are those in which references are encoded (``bank.views``). ``cut`` says how images are cut into windows.
    """
    encoder = build_encoder(backbone, image_size, layers, backbone_weights, config, cut)
    with torch.random.fork_rng(devices=[]):  # anomalib's command line declares a seed and does not apply it
        torch.manual_seed(seed)
        return NaglModel(encoder, NaglHead(encoder.dim, num_proxies, num_heads, variant), views)
