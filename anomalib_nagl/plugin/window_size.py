"""The size of a model with windows: that of its references."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from anomalib_nagl.encoders import Encoder, build_encoder
from anomalib_nagl.encoders.windowed import WindowedEncoder
from anomalib_nagl.io.windows import AUTO_SIDE, Cut, Size, megabytes, nearest_multiples, wants_windows
from anomalib_nagl.plugin.head_settings import rebuild
from anomalib_nagl.plugin.pre_processing import set_size
from anomalib_nagl.plugin.window_settings import Windows

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

logger = logging.getLogger(__name__)


def settle_size(nagl: Nagl, sizes: Sequence[Size]) -> bool:
    """Give a model whose input is open that of its references (height, width): the middle one of each side.

    Sides become multiples of the patch. False where nothing was open. ValueError while a head is to be trained, whose
    sources are cut at the size of the input.
    """
    windows = nagl.windows
    if not windows.open or windows.cut is None or not sizes:
        return False
    if nagl.trains:
        raise ValueError(
            "found windows without a size of the input while a head is trained, expected one: give --model.image_size "
            "HEIGHT,WIDTH, that of the images"
        )
    middle = int(median(height for height, _ in sizes)), int(median(width for _, width in sizes))
    cut = windows.cut if wants_windows(middle) or not windows.auto else None
    patch = nagl.model.encoder.patch_size
    size = (AUTO_SIDE, AUTO_SIDE) if cut is None else nearest_multiples(middle, patch)
    nagl.windows = Windows(cut)
    nagl.image_size = size
    _rebuild(nagl, size, cut)
    set_size(nagl.pre_processor, size)
    if cut is None:
        logger.info("Windows: none, as images of %d x %d pixels are hardly larger than one.", *middle)
    return True


def tell_windows(encoder: Encoder) -> None:
    """Say how images are seen, and what that needs, before anything is encoded."""
    if not isinstance(encoder, WindowedEncoder):
        return
    rows, cols = encoder.grid
    logger.info(
        "Windows: images of %d x %d pixels are seen in %d of %d x %d%s; %d patches, and about %d MB while one is "
        "scored, beside the libraries.",
        *encoder.image_size, len(encoder.plan.corners), *encoder.window,
        ", and as a whole beside that" if encoder.cut.overview else "", rows * cols,
        megabytes(encoder.plan, encoder.dim),
    )  # fmt: skip


def _rebuild(nagl: Nagl, size: Size, cut: Cut | None) -> None:
    """The model at another size, with the weights that it has; a head whose tokens change begins anew."""
    old, network, head = nagl.model.encoder, nagl.model.encoder.network, nagl.model.head.state_dict()
    weights = nagl.hparams.get("backbone_weights")
    encoder = build_encoder(network.name, size, network.layers, weights, network.config, cut)
    state, wanted = network.state_dict(), encoder.network.state_dict()
    # Positions of a transformer are made for one size of its input: for another one the weights are read again.
    if network.weights_ready and all(wanted[name].shape == state[name].shape for name in wanted):
        encoder.network.load_state_dict(state)
    rebuild(nagl, encoder, str(nagl.hparams["variant"]))
    if encoder.dim == old.dim:
        nagl.model.head.load_state_dict(head)
    nagl.head_trainer.remember_first(nagl.model.head)
