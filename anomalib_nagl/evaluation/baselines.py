"""anomalib's own few-shot models on the same references, queries, input size and, where they take one, backbone.

A model is built, trained and asked through its own class, without anomalib's engine around it: images are prepared as
ours are, ``training_step`` and ``fit`` see the references, ``forward`` scores the queries.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from anomalib.data import ImageBatch
from anomalib.models import AnomalyDINO, FoundAD, Padim, Patchcore, WinClip
from torch import Tensor

from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.encoders import weights as pretrained
from anomalib_nagl.encoders.cnn import choose_stages
from anomalib_nagl.encoders.timm_encoder import Backbone, quiet_loading
from anomalib_nagl.evaluation.cached_features import CachedFeatures, ProductBlur
from anomalib_nagl.evaluation.names import BASELINES
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.references.images import load_image

BATCH = 8
PADIM_FEATURES = 100  # anomalib's number for its default backbone; for most others it has none
DINO_DEFAULT, FOUNDAD_DEFAULT = "vit_small_patch14_dinov2", "vit_base_patch14_dinov2"  # as in anomalib
FOUNDAD_STEPS = 1000  # Lightning's default, as anomalib names no other, with all references in each step
CLIP_SIDE = 240
CLIP_STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_SERVER, CLIP_FILES = "https://github.com", "vit_b_16_plus_240-laion400m_e31-*.pt"
SILENT: dict[str, Any] = {"pre_processor": False, "post_processor": False, "evaluator": False, "visualizer": False}


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


class BaselineError(RuntimeError):
    """A baseline cannot score queries with these references; the message says why."""


@dataclass
class Baseline:
    """One of anomalib's models, the transform of its images and the size (height, width) of the maps asked for."""

    name: str
    module: Any
    transform: Any
    size: tuple[int, int]

    def prepare(self, image: Tensor) -> Tensor:
        """Bring an image (3, H, W) in [0, 1] to the model's input."""
        return self.transform(image)

    def take_references(self, images: Tensor) -> None:
        """Learn from prepared normal references (n, 3, H, W); BaselineError if that leaves nothing to score with."""
        with _same_chance(), contextlib.redirect_stderr(io.StringIO()):  # the coreset's progress bar
            self.module.train()
            if self.name == "winclip":
                self.module.model.setup(self.module.class_name, images)
            elif self.name == "foundad":
                _train(self.module, images)
            else:
                self.module.training_step(ImageBatch(image=images))
                self.module.fit()
            self.module.eval()
        if self.name == "padim" and not bool(self.module.model.gaussian.inv_covariance.isfinite().all()):
            raise BaselineError(
                f"anomalib's PaDiM has no covariance from {len(images)} normal reference: it needs at least 2"
            )

    @torch.no_grad()
    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (B,) and anomaly maps (B, height, width) of prepared queries; BaselineError if any is NaN."""
        found = self.module.model(images)
        scores, maps = found.pred_score.reshape(-1).float(), found.anomaly_map.float().reshape(len(images), 1, -1)
        maps = maps.reshape(len(images), 1, *found.anomaly_map.shape[-2:])
        if maps.shape[-2:] != self.size:
            maps = F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False)
        if not bool(scores.isfinite().all() and maps.isfinite().all()):
            raise BaselineError(f"anomalib's {self.name} gives scores that are not finite numbers")
        return scores, maps.squeeze(1)


def unavailable(name: str, settings: BaselineSettings) -> str | None:
    """Say why a baseline cannot run here, None if it can as far as is known without downloading; takes seconds at most.

    Raises ValueError for an unknown name or backbone.
    """
    if name not in BASELINES:
        raise ValueError(f"found baseline {name!r}, expected one of {', '.join(BASELINES)}")
    if name == "winclip":
        return _clip_unavailable()
    backbone = settings.backbone
    if name in ("patchcore", "padim") and backbone in ("builtin", "gabor"):
        return f"anomalib's feature extractor takes networks of timm, and backbone {backbone} is none"
    if name == "anomaly_dino":
        backbone = _dino_backbone(backbone)
    if name == "foundad":
        backbone = _foundad_backbone(backbone)[1]
    return _weights_unavailable(backbone)


def build_baseline(name: str, settings: BaselineSettings, category: str = "object") -> Baseline:
    """Build a baseline that ``unavailable`` says nothing against; ``category`` is a word for WinCLIP's prompts.

    PatchCore and PaDiM get the backbone of the settings and its stages, AnomalyDINO and FoundAD it if it is a DINO.
    WinCLIP has its own network and input size, and FoundAD's input is a multiple of its patch.
    """
    size = parse_image_size(settings.image_size)
    with _same_chance(), quiet_loading():
        if name == "winclip":
            clip = WinClip(class_name=category, **SILENT)
            return Baseline(name, clip, _transform((CLIP_SIDE, CLIP_SIDE), *CLIP_STATISTICS), size)
        if name == "foundad":
            encoder, backbone = _foundad_backbone(settings.backbone)
            patch = int(encoder.rsplit("_", 1)[1])
            height, width = (side // patch * patch for side in size)
            found = FoundAD(encoder_name=encoder, image_size=min(height, width), **SILENT)
            return Baseline(name, found, _transform((height, width), *_statistics(backbone)), size)
        if name == "anomaly_dino":
            backbone = _dino_backbone(settings.backbone)
            return Baseline(
                name, AnomalyDINO(encoder_name=backbone, **SILENT), _transform(size, *_statistics(backbone)), size
            )
        layers, channels = _layers(settings.backbone, settings.layers)
        common = {"backbone": settings.backbone, "layers": layers, **SILENT}
        features = None if settings.backbone in ("resnet18", "wide_resnet50_2") else min(PADIM_FEATURES, channels)
        module = Patchcore(**common) if name == "patchcore" else Padim(n_features=features, **common)
    return Baseline(name, module, _transform(size, *_statistics(settings.backbone)), size)


def score_baseline(
    name: str, settings: BaselineSettings, normal: Sequence[Path], queries: Sequence[Path], category: str = "object"
) -> tuple[Tensor, Tensor]:
    """Image scores (P,) and anomaly maps (P, height, width) of P queries, given normal references; both are files.

    PatchCore and PaDiM share the feature maps of images within a process, and blur with ``ProductBlur``. Raises
    BaselineError when the model cannot work with these references, ValueError for none or for a file that is no image.
    """
    if not normal:
        raise BaselineError(f"anomalib's {name} needs a normal reference, and there is none")
    baseline = build_baseline(name, settings, category)

    def read(path: Path) -> Tensor:
        return baseline.prepare(load_image(path)).as_subclass(Tensor)

    def show(paths: Sequence[Path]) -> Tensor:
        return torch.stack([read(path) for path in paths]) if cached is None else cached.show(paths, baseline.size)

    cached = None
    if name in ("patchcore", "padim"):
        model, key = baseline.module.model, (settings.backbone, settings.layers, baseline.size)
        model.feature_extractor = cached = CachedFeatures(model.feature_extractor, read, key)
        model.anomaly_map_generator.blur = ProductBlur(model.anomaly_map_generator.blur)
    baseline.take_references(show(normal))
    parts = [baseline.score(show(queries[start : start + BATCH])) for start in range(0, len(queries), BATCH)]
    return torch.cat([scores for scores, _ in parts]), torch.cat([maps for _, maps in parts])


def _train(module: FoundAD, images: Tensor) -> None:
    optimizer: Any = module.configure_optimizers()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # there is no trainer to log to
    for _ in range(FOUNDAD_STEPS):
        optimizer.zero_grad()
        step: Any = module.training_step(ImageBatch(image=images))
        step["loss"].backward()
        optimizer.step()


def _transform(size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    return NaglPreProcessor(size, mean, std).transform


def _statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = Backbone.resolve(backbone).create().pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def _layers(backbone: str, layers: str | None) -> tuple[list[str], int]:
    """The stages that our encoder would use, by the names anomalib's feature extractor knows, and their channels."""
    source = Backbone.resolve(backbone)
    network = source.create()
    if hasattr(network, "num_prefix_tokens"):
        return [f"blocks.{len(network.blocks) - 1}"], int(network.num_features)
    stages = source.create(features_only=True).feature_info.info
    chosen = [stages[i] for i in choose_stages(stages, layers, backbone)]
    return [str(stage["module"]) for stage in chosen], sum(int(stage["num_chs"]) for stage in chosen)


def _dino_backbone(backbone: str) -> str:
    sized = any(word in backbone for word in ("small", "base", "large", "huge", "giant"))
    return backbone if "dino" in backbone and sized else DINO_DEFAULT


def _foundad_backbone(backbone: str) -> tuple[str, str]:
    """FoundAD's name of an encoder, and timm's: that of the settings if FoundAD knows it."""
    from anomalib.models.image.foundad.components.encoder_loader import TIMM_MODEL_NAMES

    names = {timm_name.partition(".")[0]: (name, timm_name) for name, timm_name in TIMM_MODEL_NAMES.items()}
    return names.get(backbone.partition(".")[0], names[FOUNDAD_DEFAULT])


@lru_cache(maxsize=16)
def _weights_unavailable(backbone: str) -> str | None:
    source = Backbone.resolve(backbone)
    try:
        if source.config:
            pretrained.file_in_folder(Path(backbone.partition(":")[2]).expanduser())
            return None
    except pretrained.WeightsError:
        return "its folder holds no weights"
    config = source.create().pretrained_cfg
    repository = config.get("hf_hub_id")
    if not repository:
        return f"there are no pretrained weights of {backbone} on the hub"
    reason = pretrained.unobtainable(repository, config.get("hf_hub_filename"))
    return f"its weights ({repository}) are not in the hub cache, and {reason}" if reason else None


@lru_cache(maxsize=1)
def _clip_unavailable() -> str | None:
    problems = []
    if importlib.util.find_spec("open_clip") is None:
        problems.append("the package open_clip is not installed (pip install 'anomalib[clip]')")
    if not any((Path.home() / ".cache" / "clip").glob(CLIP_FILES)):
        reason = pretrained.cannot_fetch(CLIP_SERVER, "the server that has them")
        if reason:
            problems.append(f"its CLIP weights are not on this machine, and {reason}")
    return "; ".join(problems) or None


@contextlib.contextmanager
def _same_chance() -> Iterator[None]:
    """Let a model draw the same random numbers whenever it is built or trained, and the caller none of them."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(state)
