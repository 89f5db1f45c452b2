"""What a file says of a model: a trained head, and all that a checkpoint holds beside weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from anomalib_nagl.core.building import build_model
from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.io.windows import Cut
from anomalib_nagl.plugin.checkpoint_check import STRUCTURE, check_content, check_state
from anomalib_nagl.plugin.checkpoints import TrainedHead
from anomalib_nagl.plugin.window_settings import Windows, facts_of

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

logger = logging.getLogger(__name__)


def load_head(nagl: Nagl, trained: TrainedHead, path: str) -> None:
    """Give a model the trained head of a file; ValueError when it is of another structure."""
    nagl.model.head.load_published(trained.state)
    nagl.head_trainer.backbone = trained.fingerprint
    if not trained.settings:
        variant = nagl.hparams["variant"]
        logger.warning("Nothing in %s says how it was trained: it is used as variant %r.", path, variant)


def save_content(nagl: Nagl, checkpoint: dict[str, Any]) -> None:
    """Add plain data from which ``load_content`` rebuilds the model; nothing in it refers to other files."""
    settings, encoder = checkpoint["hyper_parameters"], nagl.model.encoder
    settings.update(head=None, backbone_weights=None, region=None, image_size=list(nagl.image_size))
    checkpoint["nagl"] = {
        "head_trained": nagl.head_trained,
        "references": nagl.references,
        "kept": nagl.head_trainer.kept.state() if nagl.fitting else None,
        "manifest": nagl.manifest,
        "backbone": encoder.config,
        "fingerprint": encoder.network.fingerprint() if encoder.weights_ready else None,
        # A copy: Lightning writes a caller's arguments over the hyper-parameters before it builds the model.
        "settings": {
            **{name: settings[name] for name in (*STRUCTURE, "image_size")},
            "views": nagl.model.views,
            "windows": facts_of(nagl.model.encoder),
        },
    }


def load_content(nagl: Nagl, checkpoint: dict[str, Any]) -> None:
    """Rebuild the model as it was saved, weights to follow; only a training goes on with the head that was kept.

    ValueError when it cannot be, or when the weights are not those of such a model.
    """
    saved = check_content(checkpoint["nagl"])
    settings = saved["settings"]
    nagl.image_size = parse_image_size(settings["image_size"])
    structure = {name: settings[name] for name in STRUCTURE}
    views = settings.setdefault("views", "none")  # of checkpoints from before there were any
    cut = Cut.of(settings)  # of checkpoints from before there were windows, none
    nagl.model = build_model(
        **structure, image_size=nagl.image_size, config=saved["backbone"], seed=nagl.seed, views=views, cut=cut
    )
    nagl.windows = Windows.settled(cut)
    check_state(checkpoint["state_dict"], nagl.model)
    nagl.head_trainer.remember_first(nagl.model.head)
    nagl.loss = NaglLoss(settings["variant"])
    nagl.statistics = nagl.model.encoder.mean, nagl.model.encoder.std, settings["variant"].startswith("paper")
    nagl.hparams.update(settings)
    nagl.variant_given = True
    nagl.head_trained = bool(saved["head_trained"])
    nagl.reference_adapter.restore(saved["references"], saved["manifest"])
    if nagl.fitting and saved["kept"] is not None:
        nagl.head_trainer.kept.restore(saved["kept"])
