"""Which network a model of anomalib looks through, and how a folder of weights takes the place of a named one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
from anomalib.models.image.anomaly_dino import torch_model as anomaly_dino
from anomalib.models.image.foundad.components.encoder_loader import TIMM_MODEL_NAMES

from anomalib_nagl.encoders.cnn import choose_stages
from anomalib_nagl.encoders.timm_encoder import Backbone

# As in anomalib, for models that look through a DINO.
DINO_DEFAULTS = {
    "anomaly_dino": "vit_small_patch14_dinov2",
    "foundad": "vit_base_patch14_dinov2",
    "rad": "vit_base_patch16_dinov3",
    "super_add": "vit_huge_plus_patch16_dinov3",
    "dinomaly": "vit_base_patch14_reg4_dinov2",
    "inp_former": "vit_base_patch14_reg4_dinov2",
}
SIZES = {  # of a DINO, as anomalib's classes find them in its name
    "dinomaly": ("small", "base", "large", "huge"),
    "inp_former": ("small", "base", "large"),
    "super_add": ("small", "base", "large", "huge"),
}
PUBLISHED_DEPTH = 12  # of the networks that anomalib's numbers of blocks are for
RAD_BLOCKS, SUPER_ADD_BLOCKS = (3, 6, 9, 11), (3, 5, 8, 10)
RECONSTRUCTED = 8  # blocks that Dinomaly and INP-Former reconstruct


def backbone_of(name: str, backbone: str) -> str:
    """The backbone that a baseline looks through: the one given, or its own default where it takes a DINO only."""
    if name not in DINO_DEFAULTS:
        return backbone
    if backbone in ("builtin", "gabor"):
        return DINO_DEFAULTS[name]
    architecture = Backbone.resolve(backbone).architecture.partition(".")[0]
    if name == "foundad":
        known = {timm_name.partition(".")[0] for timm_name in TIMM_MODEL_NAMES.values()}
        return backbone if architecture in known else DINO_DEFAULTS[name]
    sizes = SIZES.get(name, ("small", "base", "large", "huge", "giant"))
    fits = "dino" in architecture and any(size in architecture for size in sizes)
    return backbone if fits else DINO_DEFAULTS[name]


def foundad_name(backbone: str) -> str:
    """FoundAD's name of an encoder that it knows."""
    architecture = Backbone.resolve(backbone).architecture.partition(".")[0]
    return next(name for name, known in TIMM_MODEL_NAMES.items() if known.partition(".")[0] == architecture)


@contextmanager
def standing_in(backbone: str) -> Iterator[str]:
    """Let a folder's weights answer to the name of their architecture while a model of anomalib is built.

    Gives the name to build it with. anomalib's classes read the size, and that it is a DINO, from the name, and some
    take no input of another size than the network was trained at: here they get one that takes any.
    """
    source, transformer = Backbone.resolve(backbone), is_transformer(backbone)
    depth = depth_of(backbone) if transformer else 0
    genuine, depths = timm.create_model, dict(anomaly_dino.DINO_DEPTHS)

    def create(name: str, *given: Any, **arguments: Any) -> Any:
        same = name.partition(".")[0] == source.architecture.partition(".")[0]
        if not (transformer and same and arguments.get("pretrained")):
            return genuine(name, *given, **arguments)
        return genuine(backbone, *given, **{"dynamic_img_size": True, **arguments})

    timm.create_model = create  # type: ignore[assignment]
    if transformer:
        anomaly_dino.DINO_DEPTHS.update(dict.fromkeys(depths, depth))
    try:
        yield source.architecture if transformer else backbone
    finally:
        timm.create_model = genuine
        anomaly_dino.DINO_DEPTHS.update(depths)


def is_transformer(backbone: str) -> bool:
    """Whether a backbone of timm is a vision transformer."""
    return hasattr(Backbone.resolve(backbone).create(), "num_prefix_tokens")


def depth_of(backbone: str) -> int:
    """Blocks of a transformer."""
    return len(Backbone.resolve(backbone).create().blocks)


def patch_of(backbone: str) -> int:
    """Pixels a side of a transformer's patch."""
    return int(Backbone.resolve(backbone).create().patch_embed.patch_size[0])


def statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colours that a backbone expects."""
    config = Backbone.resolve(backbone).create().pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def stages(backbone: str, layers: str | None) -> tuple[list[str], int]:
    """The stages that our encoder would use, by the names anomalib's feature extractor knows, and their channels."""
    source = Backbone.resolve(backbone)
    if is_transformer(backbone):
        return [f"blocks.{depth_of(backbone) - 1}"], int(source.create().num_features)
    found = source.create(features_only=True).feature_info.info
    chosen = [found[i] for i in choose_stages(found, layers, backbone)]
    return [str(stage["module"]) for stage in chosen], sum(int(stage["num_chs"]) for stage in chosen)


def scaled_blocks(published: Sequence[int], depth: int) -> list[int] | None:
    """Blocks at the same share of the depth as those of a network of 12 blocks; None leaves a deeper one to anomalib.

    >>> scaled_blocks((3, 6, 9, 11), 9)
    [2, 4, 6, 8]
    """
    if depth > PUBLISHED_DEPTH:
        return None
    return [max(0, (block + 1) * depth // PUBLISHED_DEPTH - 1) for block in published]


def reconstructed_blocks(depth: int) -> list[int] | None:
    """Eight blocks up to the tenth, or to the last of a shallower network; None leaves a deeper one to anomalib."""
    if depth > PUBLISHED_DEPTH:
        return None
    last = min(9, depth - 1)
    return list(range(last - RECONSTRUCTED + 1, last + 1))
