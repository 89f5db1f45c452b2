"""Which encoder a backbone string names. A new kind of encoder is a file of its own and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from anomalib_nagl.encoders.base import Encoder, check_image_size, parse_image_size
from anomalib_nagl.encoders.builtin import BuiltinEncoder
from anomalib_nagl.encoders.cnn import CnnEncoder
from anomalib_nagl.encoders.gabor import GaborEncoder
from anomalib_nagl.encoders.timm_encoder import Backbone
from anomalib_nagl.encoders.vit import VitEncoder
from anomalib_nagl.encoders.windowed import WindowedEncoder
from anomalib_nagl.io.windows import Cut

Size = tuple[int, int]

# Backbones of our own, by name; each is built for an image size and needs nothing else.
EMBEDDED: dict[str, Callable[[Size], Encoder]] = {"builtin": BuiltinEncoder, "gabor": GaborEncoder}


class Family(NamedTuple):
    """Networks of timm that one encoder serves.

    ``knows`` tells whether a network, built without weights, is one of them. ``build`` takes where it comes from, that
    network, the image size and the feature stages, which only families with ``has_stages`` have.
    """

    knows: Callable[[Any], bool]
    build: Callable[[Backbone, Any, Size, str | None], Encoder]
    has_stages: bool


# The first that knows a network takes it.
FAMILIES: tuple[Family, ...] = (
    Family(
        lambda network: hasattr(network, "num_prefix_tokens"),
        lambda source, network, size, layers: VitEncoder.build(source, network, size),
        has_stages=False,
    ),
    Family(
        lambda network: True,
        lambda source, network, size, layers: CnnEncoder(source, size, layers),
        has_stages=True,
    ),
)


def build_encoder(
    backbone: str,
    image_size: int | Size,
    layers: str | None = None,
    weights: str | None = None,
    config: dict[str, Any] | None = None,
    cut: Cut | None = None,
) -> Encoder:
    """Build the encoder a backbone string names; no weights are read, see ``Encoder.ensure_weights``.

    ``backbone`` is a name of ``EMBEDDED``, which fetch no weights, a timm model name (transformer or CNN), or
    ``local-dir:PATH`` for a folder in timm's layout. ``layers`` picks the stages of a CNN. ``weights`` is a file that
    replaces the published weights: timm's .pth or .safetensors, or the original DINOv2 ones. ``config`` is the
    ``config`` of an earlier encoder: it rebuilds a ``local-dir:`` backbone, to be filled from a checkpoint, where the
    folder is not. With ``cut`` images are seen window by window.

    Raises ValueError for an unknown backbone or stage and for an image size that is no multiple of the patch.

    >>> encoder = build_encoder("gabor", (64, 96))
    >>> encoder.grid, encoder.dim, encoder.weights_ready
    ((4, 6), 56, True)
    """
    size = parse_image_size(image_size)
    if cut is not None:
        height, width = (min(sides) for sides in zip(size, cut.window, strict=True))
        base = build_encoder(backbone, (height, width), layers, weights, config)
        check_image_size(size, base.patch_size, backbone)
        return WindowedEncoder(base, size, cut)
    if backbone in EMBEDDED:
        _refuse(backbone, layers=layers, weights=weights)
        return EMBEDDED[backbone](size)
    source = Backbone.resolve(backbone, weights, config)
    network = source.create()
    family = next(family for family in FAMILIES if family.knows(network))
    if not family.has_stages:
        _refuse(backbone, layers=layers)
    return family.build(source, network, size, layers)


def _refuse(backbone: str, **options: str | None) -> None:
    for name, value in options.items():
        if value:
            raise ValueError(
                f"{name}: found {value!r}, expected nothing, as backbone {backbone} has no choice of {name}"
            )
