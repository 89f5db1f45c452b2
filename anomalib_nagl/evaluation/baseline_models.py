"""anomalib's classes, built and trained without its engine: images are prepared as ours are, scores are its own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.models import (
    AnomalyDINO,
    Dinomaly,
    FoundAD,
    InpFormer,
    MHPatchcore,
    Padim,
    Patchcore,
    Rad,
    SuperADD,
    WinClip,
)
from torch import Tensor

from anomalib_nagl.encoders.timm_encoder import quiet_loading
from anomalib_nagl.evaluation import baseline_backbones as backbones
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor

PADIM_FEATURES = 100  # anomalib's number for its default backbone; for most others it has none
STEPS = 1000  # of a training: Lightning's default for a set that is one batch, as anomalib names no other
TRAINING_BATCH = 16
GRADIENT_NORM = 0.1  # at which anomalib clips in the trainings of Dinomaly and INP-Former
FITTING_PASSES = 3  # of MH-PatchCore: projection, whitening, memory
CLIP_SIDE = 240
CLIP_STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SILENT: dict[str, Any] = {"pre_processor": False, "post_processor": False, "evaluator": False, "visualizer": False}

Size = tuple[int, int]


class BaselineSettings(Protocol):
    """What a baseline needs to know of an evaluation's settings."""

    @property
    def backbone(self) -> str:
        """As ``Nagl`` takes it."""

    @property
    def layers(self) -> str | None:
        """As ``Nagl`` takes it."""

    @property
    def image_size(self) -> Any:
        """Pixels a side, or height and width."""


@dataclass
class TrainingPlan:
    """Stands in for a trainer: how long a training is, and how far it has come."""

    max_steps: int
    max_epochs: int = -1
    global_step: int = 0


def build(name: str, settings: BaselineSettings, size: Size, category: str) -> tuple[Any, Any, Size]:
    """One of anomalib's models, the transform of its images and their size, a multiple of a transformer's patch."""
    if name == "winclip":
        clip = WinClip(class_name=category, **SILENT)
        size = (CLIP_SIDE, CLIP_SIDE)
        return clip, NaglPreProcessor(size, *CLIP_STATISTICS).transform, size
    backbone = backbones.backbone_of(name, settings.backbone)
    if name in backbones.DINO_DEFAULTS and name != "anomaly_dino":  # which cuts the input itself
        patch = backbones.patch_of(backbone)
        size = (size[0] // patch * patch, size[1] // patch * patch)
    if name in ("super_add", "inp_former", "foundad"):  # take squares
        size = (min(size), min(size))
    transform = NaglPreProcessor(size, *backbones.statistics(backbone)).transform
    with quiet_loading(), backbones.standing_in(backbone) as known:
        return _BUILDERS[name](backbone, known, settings.layers, size), transform, size


def _patchcore(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    return Patchcore(backbone=known, layers=backbones.stages(backbone, layers)[0], **SILENT)


def _mh_patchcore(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    return MHPatchcore(backbone=known, layers=backbones.stages(backbone, layers)[0], **SILENT)


def _padim(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    names, channels = backbones.stages(backbone, layers)
    features = None if backbone in ("resnet18", "wide_resnet50_2") else min(PADIM_FEATURES, channels)
    return Padim(n_features=features, backbone=known, layers=names, **SILENT)


def _anomaly_dino(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    return AnomalyDINO(encoder_name=known, **SILENT)


def _foundad(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    return FoundAD(encoder_name=backbones.foundad_name(backbone), image_size=min(size), **SILENT)


def _rad(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    blocks = backbones.scaled_blocks(backbones.RAD_BLOCKS, backbones.depth_of(backbone))
    return Rad(backbone=known, layers=blocks, **SILENT)


def _super_add(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    blocks = backbones.scaled_blocks(backbones.SUPER_ADD_BLOCKS, backbones.depth_of(backbone))
    patch = backbones.patch_of(backbone)
    return SuperADD(backbone=known, layers=blocks, patch_size=min(size), patch_overlap=patch, **SILENT)


def _dinomaly(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    blocks = backbones.reconstructed_blocks(backbones.depth_of(backbone))
    return Dinomaly(encoder_name=known, target_layers=blocks, **SILENT)


def _inp_former(backbone: str, known: str, layers: str | None, size: Size) -> Any:
    blocks = backbones.reconstructed_blocks(backbones.depth_of(backbone))
    return InpFormer(encoder_name=known, target_layers=blocks, **SILENT)


_BUILDERS: dict[str, Callable[[str, str, str | None, Size], Any]] = {
    "patchcore": _patchcore,
    "padim": _padim,
    "mh_patchcore": _mh_patchcore,
    "anomaly_dino": _anomaly_dino,
    "foundad": _foundad,
    "rad": _rad,
    "super_add": _super_add,
    "dinomaly": _dinomaly,
    "inp_former": _inp_former,
}


def teach(name: str, module: Any, images: Tensor, at_once: int) -> None:
    """Let a model learn from prepared normal images (n, 3, H, W), ``at_once`` in a pass of those that only look."""
    if name == "winclip":
        module.model.setup(module.class_name, images)
    elif name in ("foundad", "dinomaly", "inp_former"):
        _train(module, images)
    else:
        for _ in range(FITTING_PASSES if name == "mh_patchcore" else 1):
            for part in images.split(at_once):
                module.training_step(ImageBatch(image=part))
            module.fit()


def _train(module: Any, images: Tensor) -> None:
    """``STEPS`` steps on all images, or on ``TRAINING_BATCH`` of them at a time, each as often as the others."""
    exact = torch.get_float32_matmul_precision()
    if images.is_cuda:  # three times as fast; Lightning advises it too
        torch.set_float32_matmul_precision("high")
    module.trainer = plan = TrainingPlan(STEPS)
    module.log = lambda *args, **kwargs: None  # there is no trainer to log to
    found = module.configure_optimizers()
    optimizers, schedulers = found if isinstance(found, tuple | list) else ([found], [])
    order = torch.empty(0, dtype=torch.long)
    for _ in range(STEPS):
        if len(order) < min(TRAINING_BATCH, len(images)):
            order = torch.randperm(len(images))
        chosen, order = order[:TRAINING_BATCH], order[TRAINING_BATCH:]
        optimizers[0].zero_grad()
        module.training_step(ImageBatch(image=images[chosen]))["loss"].backward()
        if schedulers:  # Dinomaly's and INP-Former's training
            torch.nn.utils.clip_grad_norm_(module.trainable_modules.parameters(), GRADIENT_NORM)
        optimizers[0].step()
        for scheduler in schedulers:
            scheduler.step()
        plan.global_step += 1
    torch.set_float32_matmul_precision(exact)


@contextlib.contextmanager
def same_chance() -> Iterator[None]:
    """Let a model draw the same random numbers whenever it is built or trained, and the caller none of them."""
    state, other_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)
            random.setstate(other_state)
