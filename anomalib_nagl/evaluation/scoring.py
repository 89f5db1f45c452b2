"""Scoring the queries of a category on tokens: every picture is encoded once, whatever is asked of it afterwards."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, Resize
from torchvision.tv_tensors import Mask

from anomalib_nagl.core.functional import l2_normalize, nearest
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.evaluation.categories import Category, load_category
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import GOOD, Scored
from anomalib_nagl.evaluation.settings import EPISODE_ARGUMENTS, Settings
from anomalib_nagl.plugin.checkpoints import read_head
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.token_cache import Processes, TokenTable, encode_pictures
from anomalib_nagl.plugin.token_store import FileStore, recipe_hash
from anomalib_nagl.references.reference_set import ReferenceSet, keep_thin, load_mask
from anomalib_nagl.references.sampling import SupportSet
from anomalib_nagl.references.synthetic import with_synthetic

BATCH = 8
REMEMBERED = 256  # references whose tokens are kept

Rule = Callable[[NaglModel, Tensor], Tensor]


def learned(model: NaglModel, tokens: Tensor) -> Tensor:
    """Patch scores (B, M) of tokens (B, M, C) as ``Nagl`` computes them; without abnormal references, normal-only."""
    return model.score(tokens).score


def naive(model: NaglModel, tokens: Tensor) -> Tensor:
    """The rule without a head: patch scores (B, M) of tokens (B, M, C).

    They are (similarity to the nearest marked defect patch + 1 - similarity to the nearest normal patch) / 2.
    """
    query = l2_normalize(tokens)
    defects = model.abnormal_tokens[model.abnormal_patch_mask > 0]
    abnormal = nearest(query, l2_normalize(defects)[None]).similarity
    return (abnormal + 1 - nearest(query, l2_normalize(model.normal_bank)[None]).similarity) / 2


class Bench:
    """What one process keeps between units: models, tokens and masks of categories."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metric_size = parse_image_size(settings.metric_size or _as_size(settings.image_size))
        self._device = device()
        self._categories: dict[str, Category] = {}
        self._models: dict[str, Nagl] = {}
        self._tables: dict[tuple[str, str], TokenTable] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}
        self._remembered: OrderedDict[tuple[str, bytes], Tensor] = OrderedDict()

    def category(self, name: str) -> Category:
        """The pictures of a category."""
        if name not in self._categories:
            self._categories[name] = load_category(self.settings, name)
        return self._categories[name]

    def untrained(self) -> Nagl:
        """A model whose head is not asked."""
        return self._model({})

    def trained(self, head: str, weights: Path) -> Nagl:
        """A model with the arguments of a head of the settings, and the weights of a training."""
        arguments = {k: v for k, v in self.settings.heads[head].items() if k not in EPISODE_ARGUMENTS}
        model = self._model(arguments)
        model.model.head.load_published(read_head(weights).state)
        model.head_trained = True
        return model

    def score(
        self, model: Nagl, rule: Rule, category: Category, draw: Draw, synthetic: tuple[str, int, int] | None = None
    ) -> Scored:
        """Score the queries of a draw with its references.

        ``synthetic`` is a kind, number and seed of abnormal references to make of the normal ones.
        """
        model.set_references(references(draw, synthetic))
        rows = {sample.image: row for row, sample in enumerate(category.samples)}
        places = torch.tensor([rows[sample.image] for sample in draw.queries])
        table, scores, maps = self._table(model, category), [], []
        with torch.no_grad():
            for chunk in places.split(BATCH):
                found: Any = model.model.predictions(rule(model.model, table[chunk].to(self._device)))
                scores.append(found.pred_score.cpu())
                maps.append(self.resized(found.anomaly_map[:, 0]).cpu())
        return self.scored(category, draw, torch.cat(scores), torch.cat(maps))

    def scored(self, category: Category, draw: Draw, scores: Tensor, maps: Tensor) -> Scored:
        """Scores (P,) and maps (P, H, W) of the queries of a draw, with what is known of these."""
        names = tuple(category.short(sample) for sample in draw.queries)
        types = tuple(sample.defect_type for sample in draw.queries)
        masks = torch.stack([self._mask(category, index, draw) for index in range(len(draw.queries))])
        return Scored(names, types, scores.float(), self.resized(maps.float()), masks)

    def resized(self, maps: Tensor) -> Tensor:
        """Maps (P, H, W) at the size at which metrics are computed."""
        if tuple(maps.shape[-2:]) == self.metric_size:
            return maps
        return F.interpolate(maps[:, None], self.metric_size, mode="bilinear")[:, 0]

    def _model(self, arguments: dict[str, Any]) -> Nagl:
        key = repr(sorted(arguments.items()))
        if key not in self._models:
            model = Nagl(**model_arguments(self.settings, arguments), post_processor=False, evaluator=False,
                         visualizer=False)  # fmt: skip
            model.model.encoder.ensure_weights()
            model.eval().to(self._device)
            self._remember(model)
            self._models[key] = model
        return self._models[key]

    def _remember(self, model: Nagl) -> None:
        """Let a model encode each reference once, however many heads and numbers of references it is shown with."""
        encode, recipe, known = model.model.encode, self._recipe(model), self._remembered

        def lookup(images: Tensor) -> Tensor:
            found = []
            for image in images:
                key = (recipe, hashlib.sha256(image.cpu().numpy().tobytes()).digest())
                if key not in known:
                    known[key] = encode(image[None])[0]
                known.move_to_end(key)
                found.append(known[key])
            while len(known) > REMEMBERED:
                known.popitem(last=False)
            return torch.stack(found) if found else encode(images)

        model.model.encode = lookup  # type: ignore[method-assign]

    def _recipe(self, model: Nagl) -> str:
        return recipe_hash(model.model.encoder.fingerprint(), model.pre_processor.config, torch.float32)

    def _table(self, model: Nagl, category: Category) -> TokenTable:
        """Tokens of all pictures of a category, in files that processes share; float32, as the engine computes them."""
        key = self._recipe(model), category.name
        if key not in self._tables:
            paths = [sample.image for sample in category.samples]
            self._tables[key] = encode_category(self.settings, model, category.name, paths, torch.float32)
        return self._tables[key]

    def _mask(self, category: Category, index: int, draw: Draw) -> Tensor:
        sample, known = draw.queries[index], self._masks.setdefault(category.name, {})
        if sample.defect_type == GOOD and sample.mask is None:
            return torch.zeros(self.metric_size, dtype=torch.uint8)
        if sample.image not in known:
            known[sample.image] = torch.zeros(self.metric_size, dtype=torch.uint8)
            if sample.defect_type != GOOD:
                known[sample.image] = resize_mask(load_mask(sample.mask, sample.image), self.metric_size)
        return known[sample.image]


def model_arguments(settings: Settings, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``Nagl`` for a head: the common ones of the settings, and its own."""
    common = {
        "backbone": settings.backbone,
        "layers": settings.layers,
        "image_size": _as_size(settings.image_size),
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
    }
    return {**common, **{k: v for k, v in arguments.items() if k not in EPISODE_ARGUMENTS}}


def device() -> torch.device:
    """Where models run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def encode_category(settings: Settings, model: Nagl, category: str, paths: list[str], dtype: torch.dtype) -> TokenTable:
    """Tokens of pictures of a category, encoded unless an evaluation has them already.

    Of several processes that ask for a category at once, one encodes and the others wait for it.
    """
    encoder, folder = model.model.encoder, Path(settings.out) / "tokens"
    recipe = recipe_hash(encoder.fingerprint(), model.pre_processor.config, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{recipe}-{category}.lock"):
        return encode_pictures(
            paths,
            model.pre_processor.transform,
            lambda images: NaglModel.encode(model.model, images.to(device())),
            partial(FileStore, folder, recipe, shape=(encoder.grid[0] * encoder.grid[1], encoder.dim), dtype=dtype),
            Processes(0, 1, lambda part: part),
        )


def references(draw: Draw, synthetic: tuple[str, int, int] | None = None) -> ReferenceSet:
    """Read the references of a draw; ``synthetic`` is a kind, number and seed of abnormal ones instead of real ones."""
    if synthetic is None:
        return SupportSet(draw.normal, draw.abnormal).load()
    kind, count, seed = synthetic
    return with_synthetic(SupportSet(draw.normal, ()).load(), count, kind, seed)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (H, W) at another size by nearest neighbour, 0/1; a thin defect is kept (``keep_thin``)."""
    resized = Resize(list(size), interpolation=InterpolationMode.NEAREST)(Mask(mask)).as_subclass(Tensor)
    return (keep_thin(resized, mask) != 0).to(torch.uint8)


def join(parts: Sequence[Scored]) -> Scored:
    """Queries of several draws as one."""
    return Scored(
        tuple(name for part in parts for name in part.names),
        tuple(kind for part in parts for kind in part.types),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.maps for part in parts]),
        torch.cat([part.masks for part in parts]),
    )


def _as_size(given: int | list[int]) -> int | tuple[int, int]:
    return given if isinstance(given, int) else (int(given[0]), int(given[1]))
