"""anomalib's own models on the same references, queries, input size and, where they take one, backbone.

A model is built, trained and asked through its own class, without anomalib's engine around it: images are prepared as
ours are, ``training_step`` and ``fit`` see the references, ``forward`` scores the queries.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.encoders import weights as pretrained
from anomalib_nagl.encoders.timm_encoder import Backbone
from anomalib_nagl.evaluation.baseline_backbones import backbone_of
from anomalib_nagl.evaluation.baseline_models import BaselineSettings, build, same_chance, teach
from anomalib_nagl.evaluation.cached_features import CachedFeatures, ProductBlur
from anomalib_nagl.evaluation.names import BASELINES
from anomalib_nagl.references.images import load_image

BATCH = 8
CLIP_SERVER, CLIP_FILES = "https://github.com", "vit_b_16_plus_240-laion400m_e31-*.pt"
WITH_STAGES = ("patchcore", "padim", "mh_patchcore")  # look through the stages of any network of timm
# Where models keep what extracts the features that are remembered.
EXTRACTORS = {**dict.fromkeys((*WITH_STAGES, "rad"), "feature_extractor"), "anomaly_dino": "feature_encoder"}


class BaselineError(RuntimeError):
    """A baseline cannot score queries with these references; the message says why."""


@dataclass
class Baseline:
    """One of anomalib's models, the transform of its images, their size and that of the maps asked for.

    Sizes are (height, width).
    """

    name: str
    module: Any
    transform: Any
    input_size: tuple[int, int]
    size: tuple[int, int]
    at_once: int = BATCH

    def prepare(self, image: Tensor) -> Tensor:
        """Bring an image (3, H, W) in [0, 1] to the model's input."""
        return self.transform(image)

    def take_references(self, images: Tensor) -> None:
        """Learn from prepared normal references (n, 3, H, W); BaselineError if that leaves nothing to score with."""
        with same_chance(), contextlib.redirect_stderr(io.StringIO()):  # the coreset's progress bar
            self.module.train()
            teach(self.name, self.module, images, self.at_once)
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
    if name in WITH_STAGES and settings.backbone in ("builtin", "gabor"):
        return f"anomalib's feature extractor takes networks of timm, and backbone {settings.backbone} is none"
    return _weights_unavailable(backbone_of(name, settings.backbone))


def build_baseline(name: str, settings: BaselineSettings, category: str = "object") -> Baseline:
    """Build a baseline that ``unavailable`` says nothing against; ``category`` is a word for WinCLIP's prompts.

    PatchCore, MH-PatchCore and PaDiM get the backbone of the settings and its stages, the others it if it is a DINO by
    its architecture, at a multiple of its patch. WinCLIP has its own network and input size.
    """
    size = parse_image_size(settings.image_size)
    with same_chance():
        return Baseline(name, *build(name, settings, size, category), size)


def score_baseline(
    name: str,
    settings: BaselineSettings,
    normal: Sequence[Path],
    queries: Sequence[Path],
    category: str = "object",
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Image scores (P,) and anomaly maps (P, height, width) of P queries, given normal references; both are files.

    PatchCore, MH-PatchCore and PaDiM share the feature maps of images within a process, AnomalyDINO and RAD remember
    theirs, and PatchCore and PaDiM blur with ``ProductBlur``. Raises BaselineError when a model cannot work with these
    references, ValueError for none or for a file that is no image.
    """
    if not normal:
        raise BaselineError(f"anomalib's {name} needs a normal reference, and there is none")
    baseline = build_baseline(name, settings, category)
    baseline.module.to(device)

    def read(path: Path) -> Tensor:
        return baseline.prepare(load_image(path)).as_subclass(Tensor).to(device)

    def show(paths: Sequence[Path]) -> Tensor:
        return (
            torch.stack([read(path) for path in paths]) if cached is None else cached.show(paths, baseline.input_size)
        )

    cached = None
    if name in EXTRACTORS:
        model, kind = baseline.module.model, "stages" if name in WITH_STAGES else name
        key = (kind, settings.backbone, settings.layers, baseline.input_size, str(device))
        cached = CachedFeatures(getattr(model, EXTRACTORS[name]), read, key)
        setattr(model, EXTRACTORS[name], cached)
        baseline.at_once = len(normal)  # of which the maps are shown once
        if name in ("patchcore", "padim"):
            model.anomaly_map_generator.blur = ProductBlur(model.anomaly_map_generator.blur)
    baseline.take_references(show(normal))
    parts = [baseline.score(show(queries[start : start + BATCH])) for start in range(0, len(queries), BATCH)]
    return torch.cat([scores.cpu() for scores, _ in parts]), torch.cat([maps.cpu() for _, maps in parts])


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
