"""Encoders: pictures to patch tokens, frozen, with weights that load when they are first needed."""

from __future__ import annotations

from typing import Any

from anomalib_nagl.encoders.base import Encoder, parse_image_size
from anomalib_nagl.encoders.cnn import CnnEncoder
from anomalib_nagl.encoders.gabor import GaborEncoder
from anomalib_nagl.encoders.timm_encoder import Backbone
from anomalib_nagl.encoders.vit import VitEncoder
from anomalib_nagl.encoders.weights import WeightsError

__all__ = [
    "CnnEncoder",
    "Encoder",
    "GaborEncoder",
    "VitEncoder",
    "WeightsError",
    "build_encoder",
    "parse_image_size",
]


def build_encoder(
    backbone: str,
    image_size: int | tuple[int, int],
    layers: str | None = None,
    weights: str | None = None,
    config: dict[str, Any] | None = None,
) -> Encoder:
    """Build the encoder a backbone string names; no weights are read, see ``Encoder.ensure_weights``.

    ``backbone`` is a timm model name (transformer or CNN), ``local-dir:PATH`` for a folder in timm's layout, or
    ``gabor``, which has no weights. ``layers`` picks the stages of a CNN. ``weights`` is a file that replaces the
    published weights: timm's .pth or .safetensors, or the original DINOv2 ones. ``config`` is the ``config`` of an
    earlier encoder: it rebuilds a ``local-dir:`` backbone, to be filled from a checkpoint, where the folder is not.

    Raises ValueError for an unknown backbone or stage and for an image size that is no multiple of the patch.

    >>> encoder = build_encoder("gabor", (64, 96))
    >>> encoder.grid, encoder.dim, encoder.weights_ready
    ((4, 6), 56, True)
    """
    size = parse_image_size(image_size)
    if backbone == "gabor":
        _refuse(backbone, layers=layers, weights=weights)
        return GaborEncoder(size)
    source = Backbone.resolve(backbone, weights, config)
    native = source.create()
    if not hasattr(native, "num_prefix_tokens"):
        return CnnEncoder(source, size, layers)
    _refuse(backbone, layers=layers)
    return VitEncoder.build(source, native, size)


def _refuse(backbone: str, **options: str | None) -> None:
    for name, value in options.items():
        if value:
            raise ValueError(
                f"{name}: found {value!r}, expected nothing, as backbone {backbone} has no choice of {name}"
            )
