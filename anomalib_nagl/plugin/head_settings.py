"""Settings that a model shares with its head: given by a person, brought by a trained head, or left at their defaults.

Also what a model does that has neither a trained head nor a source to train one on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from anomalib_nagl.core.building import build_model
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.variants import HEAD_FREE, Variant
from anomalib_nagl.core.weights import check_weights
from anomalib_nagl.encoders import Encoder, parse_image_size
from anomalib_nagl.plugin.builtin_head import find_head
from anomalib_nagl.plugin.checkpoints import TrainedHead, comparable
from anomalib_nagl.plugin.window_settings import Windows

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

logger = logging.getLogger(__name__)
DEFAULTS: Mapping[str, Any] = {
    "backbone": "vit_small_patch14_dinov2",
    "layers": None,
    "num_proxies": 25,
    "num_heads": 4,
    "variant": "extended",
    "image_size": 448,
}
# A model that takes everything from a checkpoint is built with a backbone that needs no file.
PLACEHOLDER: Mapping[str, Any] = {
    "backbone": "gabor", "layers": None, "image_size": 448, "num_heads": 1, "window": None, "overview": None,
}  # fmt: skip


def settle(given: Mapping[str, Any], head: TrainedHead | None, path: str | None) -> dict[str, Any]:
    """Values of the settings in ``DEFAULTS``: those that are given (not None), those of the head, the defaults.

    ValueError when a head was trained with other settings than are given; at another image size it may be used.
    """
    known = {} if head is None else {name: head.settings[name] for name in DEFAULTS if name in head.settings}
    named = {name: value for name, value in given.items() if value is not None}
    different = [
        f"{name}={known[name]!r} instead of {value!r}"
        for name, value in named.items()
        if name in known and name != "image_size" and comparable(known[name]) != comparable(value)
    ]
    if different:
        raise ValueError(
            f"found a head trained with {', '.join(different)} in {path}, expected the same settings: leave them out, "
            "as the head brings its own, or train a head for these"
        )
    settled = {**DEFAULTS, **known, **named}
    settled["image_size"] = parse_image_size(settled["image_size"])
    trained_at = parse_image_size(known.get("image_size", settled["image_size"]))
    if trained_at != settled["image_size"]:
        logger.warning(
            "The head of %s was trained on images of %d x %d pixels and is used on %d x %d, as image_size says.",
            path, *trained_at, *settled["image_size"],
        )  # fmt: skip
    return {name: settled[name] for name in DEFAULTS}


def rebuild(nagl: Nagl, encoder: Encoder, variant: str) -> None:
    """Give a model another encoder, or a fresh head of a variant, as if it was built so; references are forgotten."""
    with torch.random.fork_rng(devices=[]):  # as build_model does
        torch.manual_seed(nagl.seed)
        head = NaglHead(encoder.dim, nagl.hparams["num_proxies"], nagl.hparams["num_heads"], variant)
        views = nagl.windows.views(nagl.hparams["views"], variant)
        nagl.model = NaglModel(encoder, head, views).to(nagl.device, nagl.dtype)  # type: ignore[arg-type]  # Lightning says str


def build(
    given: Mapping[str, Any], path: str | None, weights: str | None, seed: int, views: str, windows: Windows
) -> tuple[NaglModel, dict[str, Any], TrainedHead | None]:
    """A model with a fresh head, its settled settings, and the trained head of the file at ``path``, or of the name.

    The backbone is that of the head's file unless one is given. Raises ValueError as ``settle`` and ``read_head`` do.
    """
    head = None if path is None else find_head(path)
    settled = settle(windows.sized(given), head, path)
    seen, cut = windows.views(views, settled["variant"]), windows.cut
    if head is None or not head.encoder or given["backbone"] is not None or weights is not None:
        return build_model(**settled, backbone_weights=weights, seed=seed, views=seen, cut=cut), settled, head
    model = build_model(**settled, seed=seed, config=head.backbone, views=seen, cut=cut)
    check_weights(head.encoder, "a backbone beside a head")
    model.encoder.network.load_state_dict(head.encoder)
    return model, settled, head


def trained_variant(encoder: Encoder) -> str:
    """The variant that is trained where none is named: the one that measured better, where it was measured."""
    return str(DEFAULTS["variant"]) if encoder.name == "gabor" else "guided"


def settle_variant(nagl: Nagl, abnormal_shots: int, has_source: bool) -> None:
    """Before a fit, take the variant that can be had, unless a person named one: without a head if there is none."""
    trained = trained_variant(nagl.model.encoder)
    if not nagl.variant_given and has_source and nagl.hparams["variant"] != trained:
        _use(nagl, trained)
    elif abnormal_shots and not has_source and not nagl.head_trained:
        do_without_head(nagl)


def do_without_head(nagl: Nagl) -> bool:
    """Compare patches without a head from now on, and say so; False where a person named a variant that has one."""
    if nagl.variant_given:
        return False
    logger.info(
        "No head, and no source to train one on: patches are compared without a head (variant %s). "
        "A trained one goes to --model.head.", HEAD_FREE,
    )  # fmt: skip
    _use(nagl, HEAD_FREE)
    return True


def _use(nagl: Nagl, variant: str) -> None:
    """Give a model a fresh head of a variant, as if it had been built with it; references are forgotten."""
    rebuild(nagl, nagl.model.encoder, variant)
    nagl.loss = NaglLoss(variant)
    nagl.head_trainer.remember_first(nagl.model.head)
    nagl.adapts = nagl.head_trained = not Variant.parse(variant).proxies
    nagl.hparams["variant"] = variant
