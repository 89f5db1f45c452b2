"""Scoring the queries of a category on tokens: every image is encoded once, whatever is asked of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from anomalib_nagl.bank.patch_masks import resize_mask
from anomalib_nagl.core.fusion import WeightedFusion
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.core.views import stack_views
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.evaluation.categories import Category, load_category
from anomalib_nagl.evaluation.names import NAGL_ARGUMENTS
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import GOOD, Scored
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.checkpoints import read_head
from anomalib_nagl.plugin.head_settings import DEFAULTS
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.token_cache import Processes, TokenTable, encode_images
from anomalib_nagl.plugin.token_store import FileStore, recipe_hash
from anomalib_nagl.references.images import check_mask, image_hash, load_image, load_mask
from anomalib_nagl.references.prepare import prepare_references
from anomalib_nagl.references.sample import Sample
from anomalib_nagl.references.sampling import SupportSet
from anomalib_nagl.references.synthetic import with_synthetic

BATCH = 8
KEPT = 64  # references whose other views are kept
Size = tuple[int, int]


class Scorer:
    """What one process keeps between jobs: models, tokens and masks of categories."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metric_size = parse_image_size(_as_size(settings.metric_size or settings.image_size))
        self._categories: dict[str, Category] = {}
        self._models: dict[str, Nagl] = {}
        self._tables: dict[tuple[str, str], TokenTable] = {}
        self._masks: dict[tuple[str, Size], Tensor] = {}
        self._views: dict[tuple[str, str, str], Tensor] = {}

    def category(self, name: str) -> Category:
        """The images of a category."""
        if name not in self._categories:
            self._categories[name] = load_category(self.settings, name)
        return self._categories[name]

    @staticmethod
    def content(sample: Sample) -> str:
        """A hash by which copies of an image are known."""
        return image_hash(sample.image)

    def model(self, name: str, weights: Path | None = None) -> Nagl:
        """A head of the settings, with the weights of a training if it is trained."""
        if name not in self._models:
            model = build_head(self.settings, name)
            model.model.encoder.ensure_weights()
            self._models[name] = model.eval().to(device())
        if weights is not None:
            self._models[name].model.head.load_published(read_head(weights).state)
        return self._models[name]

    @torch.no_grad()
    def score(
        self,
        model: Nagl,
        category: Category,
        draw: Draw,
        masks: str = "given",
        synthetic: tuple[str, int, int] | None = None,
    ) -> Scored:
        """Score the queries of a draw with its references; see ``reference_tokens`` for these."""
        core, scores, maps = model.model, [], []
        state = core.adapt(self.reference_tokens(model, category, draw, masks, synthetic), model.bank_limit)
        for start in range(0, len(draw.queries), BATCH):
            tokens = self.tokens(model, category, draw.queries[start : start + BATCH])
            found = core.predictions(core.score(tokens, state).score)
            scores.append(found.pred_score.cpu())
            maps.append(self.resized(found.anomaly_map[:, 0]).cpu())
        return self.scored(category, draw, torch.cat(scores), torch.cat(maps))

    def reference_tokens(
        self,
        model: Nagl,
        category: Category,
        draw: Draw,
        masks: str = "given",
        synthetic: tuple[str, int, int] | None = None,
    ) -> ReferenceTokens:
        """Tokens of the references of a draw: rows of the category's table, with patch masks.

        ``masks`` as in the settings. ``synthetic`` is a method, number and seed of abnormal references to make of the
        normal ones; these alone are encoded here.
        """
        core, normal = model.model, self.viewed(model, category, draw.normal)
        if synthetic is not None:
            method, count, seed = synthetic
            made = with_synthetic(SupportSet(draw.normal).load(), count, method, seed)
            prepared = prepare_references(made, model.pre_processor.transform, core.encoder.image_size)
            return core.reference_tokens(normal, core.encode_views(prepared.abnormal.to(device())), prepared.masks)
        abnormal = self.viewed(model, category, draw.abnormal)
        known = [masks == "given" and sample.mask is not None for sample in draw.abnormal]
        size = core.encoder.image_size
        pixels = [
            self._reference_mask(sample, size) if given else torch.ones(size, dtype=torch.uint8)
            for sample, given in zip(draw.abnormal, known, strict=True)
        ]
        unmasked = torch.tensor([masks != "whole" and not given for given in known], dtype=torch.bool)
        stacked = torch.stack(pixels) if pixels else torch.zeros(0, *size, dtype=torch.uint8)
        return core.reference_tokens(normal, abnormal, stacked, unmasked)

    def scored(self, category: Category, draw: Draw, scores: Tensor, maps: Tensor) -> Scored:
        """Scores (P,) and maps (P, H, W) of the queries of a draw, with what is known of these."""
        names = tuple(category.short(sample) for sample in draw.queries)
        types = tuple(sample.defect_type for sample in draw.queries)
        nothing = torch.zeros(self.metric_size, dtype=torch.uint8)
        masks = [nothing if s.defect_type == GOOD else self._mask(s, self.metric_size) for s in draw.queries]
        return Scored(names, types, scores.float(), self.resized(maps.float()), torch.stack(masks))

    def resized(self, maps: Tensor) -> Tensor:
        """Maps (P, H, W) at the size at which metrics are computed."""
        if tuple(maps.shape[-2:]) == self.metric_size:
            return maps
        return F.interpolate(maps[:, None], self.metric_size, mode="bilinear")[:, 0]

    def tokens(self, model: Nagl, category: Category, samples: Sequence[Sample]) -> Tensor:
        """Tokens (P, M, C) of some images of a category, all of which are encoded once; float32, as by the engine."""
        key = recipe(model, torch.float32), category.name
        if key not in self._tables:
            paths = [sample.image for sample in category.samples]
            self._tables[key] = encode_category(self.settings, model, category.name, paths, torch.float32)
        rows = [category.rows[sample.image] for sample in samples]
        return self._tables[key][torch.tensor(rows, dtype=torch.long)].to(device())

    def viewed(self, model: Nagl, category: Category, samples: Sequence[Sample]) -> Tensor:
        """Tokens (P, V * M, C) of references in all views of a model, those of the image as it is from the table.

        Draws share many references: the latest ``KEPT`` are kept.
        """
        core, upright = model.model, self.tokens(model, category, samples)
        if len(core.symmetries) == 1:
            return upright
        others = core.symmetries[1:]
        for sample in samples:
            key = recipe(model, torch.float32), core.views, sample.image
            if key not in self._views:
                image = model.pre_processor.transform(load_image(sample.image))
                self._views[key] = core.encode(stack_views(image[None].to(device()), others))[0].flatten(0, 1)
            self._views[key] = self._views.pop(key)  # the latest last
        turned = [self._views[recipe(model, torch.float32), core.views, sample.image] for sample in samples]
        for key in list(self._views)[:-KEPT]:
            del self._views[key]
        return (
            torch.cat([upright, torch.stack(turned)], dim=1)
            if turned
            else upright.new_empty(0, len(core.symmetries) * upright.shape[1], upright.shape[2])
        )

    def _mask(self, sample: Sample, size: Size) -> Tensor:
        """The mask of an abnormal image at a size (height, width), 0/1."""
        if (sample.image, size) not in self._masks:
            mask = load_mask(sample.masks, sample.image)
            self._masks[sample.image, size] = torch.from_numpy(resize_mask(mask.numpy(), size)).to(torch.uint8)
        return self._masks[sample.image, size]

    def _reference_mask(self, sample: Sample, size: Size) -> Tensor:
        if (sample.image, size) not in self._masks:  # checked once, as in any set of references
            height, width = load_image(sample.image).shape[-2:]
            check_mask(load_mask(sample.masks, sample.image), (height, width), sample.image)
        return self._mask(sample, size)


def build_head(settings: Settings, name: str) -> Nagl:
    """A head of the settings, not trained."""
    model = Nagl(**model_arguments(settings, name), post_processor=False, evaluator=False, visualizer=False)
    fusion = settings.head(name).get("fusion")
    if fusion is not None:
        model.model.head.fusion = WeightedFusion(*map(float, fusion))
    return model


def model_arguments(settings: Settings, name: str) -> dict[str, Any]:
    """Arguments of ``Nagl`` for a head: the common ones of the settings, and its own."""
    common = {
        "backbone": settings.backbone,
        "layers": settings.layers,
        "image_size": _as_size(settings.image_size),
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "variant": DEFAULTS["variant"],  # said outright: a model without a head would take another
    }
    own = {key: value for key, value in settings.head(name).items() if key in NAGL_ARGUMENTS}
    if isinstance(own.get("image_size"), list):
        own["image_size"] = _as_size(own["image_size"])
    return {**common, **own}


def device() -> torch.device:
    """Where models run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def recipe(model: Nagl, dtype: torch.dtype) -> str:
    """A hash of what the tokens of an image depend on, besides the image."""
    return recipe_hash(model.model.encoder.fingerprint(), model.pre_processor.config, dtype)


def encode_category(settings: Settings, model: Nagl, category: str, paths: list[str], dtype: torch.dtype) -> TokenTable:
    """Tokens of images of a category, encoded unless an evaluation has them already.

    Of several processes that ask for a category at once, one encodes and the others wait for it.
    """
    encoder, folder, key = model.model.encoder, Path(settings.out) / "tokens", recipe(model, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{key}-{category}.lock"):
        return encode_images(
            paths,
            model.pre_processor.transform,
            lambda images: model.model.encode(images.to(device())),
            partial(FileStore, folder, key, shape=(encoder.grid[0] * encoder.grid[1], encoder.dim), dtype=dtype),
            Processes(0, 1, lambda part: part),
        )


def join(parts: Sequence[Scored]) -> Scored:
    """Queries of several draws as one."""
    return Scored(
        tuple(name for part in parts for name in part.names),
        tuple(defect_type for part in parts for defect_type in part.types),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.maps for part in parts]),
        torch.cat([part.masks for part in parts]),
    )


def _as_size(given: int | list[int]) -> int | tuple[int, int]:
    return given if isinstance(given, int) else (int(given[0]), int(given[1]))
