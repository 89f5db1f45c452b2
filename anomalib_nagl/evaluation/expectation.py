"""How long an evaluation takes and what memory it needs, from short measurements on this machine before it begins.

Measured are the backbone on a few images, a comparison with references, one reading of an image of every category, and
the metrics of one category. What is not: how fast many processes are beside each other, downloads, and the trainings
and memories of anomalib's models. Take it as the right order of magnitude.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.encoders.timm_encoder import LOCAL, Backbone
from anomalib_nagl.encoders.weights import WeightsError, in_cache
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.grid import scoring_jobs, training_jobs
from anomalib_nagl.evaluation.metrics import measure
from anomalib_nagl.evaluation.names import baseline_of
from anomalib_nagl.evaluation.records import GOOD, Cell, Scored
from anomalib_nagl.evaluation.scorer import build_head, device
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.references.images import load_image

BATCH, TURNS = 4, 2
BACKWARD = 3  # times of a forward pass that a training step takes
ALL_MAPS = 4  # copies of a category's maps that the metrics hold at once


@dataclass(frozen=True)
class Speeds:
    """Seconds on this machine: to encode an image, to compare it with two references, to count one in metrics."""

    encode: float
    compare: float
    count: float
    token_bytes: int


@dataclass(frozen=True)
class Expectation:
    """Seconds of an evaluation, by what they are spent on, and bytes of memory (of a process) and of disk."""

    encoding: float
    training: float
    scoring: float
    memory: int
    disk: int

    def sentence(self, processes: int) -> str:
        """What to tell people."""
        whole = self.encoding + self.training + self.scoring
        parts = {"encoding": self.encoding, "trainings": self.training, "scoring": self.scoring}
        listed = ", ".join(f"{duration(seconds)} {name}" for name, seconds in parts.items())
        memory, disk = processes * self.memory / 1e9, self.disk / 1e9
        return (
            f"Expected on {where()}, {processes} at once: about {duration(whole)} ({listed}), {memory:.1f} GB of "
            f"memory, {disk:.1f} GB of disk for tokens. From a few measurements just now: the order of magnitude."
        )


def where() -> str:
    """The device that models run on, by name."""
    found = device()
    return torch.cuda.get_device_name(found) if found.type == "cuda" else "the processor (no GPU found)"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def told(settings: Settings, categories: Sequence[Category], cells: Sequence[Cell], download: bool) -> str:
    """The sentence of an expectation, or why there is none; weights are downloaded only if that is wished."""
    if not download and not _weights_here(settings.backbone):
        return f"Expected time and memory: not known before the weights of {settings.backbone} are on this machine."
    try:
        return expect(settings, categories, cells).sentence(settings.processes)
    except WeightsError as error:
        return f"Expected time and memory: not known ({error})"


def _weights_here(backbone: str) -> bool:
    if backbone in ("builtin", "gabor") or backbone.startswith(LOCAL):
        return True
    config = Backbone.resolve(backbone).create().pretrained_cfg
    return in_cache(config.get("hf_hub_id") or "", config.get("hf_hub_filename"))


def expect(settings: Settings, categories: Sequence[Category], cells: Sequence[Cell]) -> Expectation:
    """What the cells that are left to compute will take, all weights being there already."""
    shown = [category.normal[0].image for category in categories]
    speeds = probe(build_head(settings, "head_free").eval(), shown, _pixels(settings))
    images = sum(len(category.samples) for category in categories)
    queries = {category.name: len(category.good) + len(category.defects) for category in categories}
    jobs = scoring_jobs(cells)
    encoded = images + sum(queries[job.cells[0].category] for job in jobs if baseline_of(job.cells[0].model))
    compared = sum(queries[job.cells[0].category] for job in jobs)
    counted = sum(queries[cell.category] for cell in cells)
    episodes = 0
    for job in training_jobs(settings, cells):
        own = settings.head(job.model)
        episodes += int(own.get("epochs", settings.epochs)) * int(own.get("episodes", settings.episodes))
    at_once = settings.processes if device().type == "cpu" else 1  # a GPU is shared
    pixels = _pixels(settings) * max(queries.values(), default=0)
    return Expectation(
        encoding=encoded * speeds.encode / at_once,
        training=episodes * BACKWARD * speeds.compare / at_once,
        scoring=(compared * speeds.compare / at_once + counted * speeds.count / settings.processes),
        memory=psutil.Process().memory_info().rss + ALL_MAPS * 4 * pixels,
        disk=images * speeds.token_bytes,
    )


def expect_recipe(
    model: Nagl, sources: Sequence[str], targets: Sequence[str], episodes: int, seeds: int
) -> Expectation:
    """The published recipe: a training on the images of sources, then each target category with so many draws.

    ``targets`` are images too; ``episodes`` counts those of all epochs, of validation as well.
    """
    height, width = model.model.encoder.image_size
    speeds = probe(model.eval(), [*sources[:1], *targets[:1]], height * width)
    scored = len(targets) * seeds
    return Expectation(
        encoding=(len(sources) + scored) * speeds.encode,
        training=episodes * BACKWARD * speeds.compare,
        scoring=scored * (speeds.compare + speeds.count),
        memory=psutil.Process().memory_info().rss + len(sources) * speeds.token_bytes,
        disk=0,
    )


def _pixels(settings: Settings) -> int:
    """Pixels of a map at the size of the metrics."""
    size = settings.metric_size or settings.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(height) * int(width)


@torch.no_grad()
def probe(model: Nagl, paths: Sequence[str], pixels: int) -> Speeds:
    """Measure a model on this machine, with some images, one of each category.

    The weights of its backbone are fetched if they are not there, as the run would. ``pixels`` are those of a map.
    """
    model.model.encoder.ensure_weights()
    model.to(device())
    core = model.model
    reading = _seconds(lambda: [load_image(path) for path in paths]) / len(paths)
    image = model.pre_processor.transform(load_image(paths[0]))
    images = torch.stack([image] * BATCH).to(device())
    encode = reading + _seconds(lambda: core.encode(images)) / BATCH
    tokens, views = core.encode(images[:2]), core.encode_views(images[:2])
    mask = torch.zeros(1, tokens.shape[1])
    mask[:, : tokens.shape[1] // 20 + 1] = 1
    known = ReferenceTokens(views[:1], views[1:], mask.to(tokens), torch.ones(1, dtype=torch.bool, device=device()))
    state = core.adapt(known, model.bank_limit)
    compare = _seconds(lambda: core.predictions(core.score(tokens, state).score)) / len(tokens)
    return Speeds(encode, compare, _counting(pixels), 4 * tokens[0].numel())


def _counting(pixels: int, queries: int = 40) -> float:
    side = int(pixels**0.5)
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(queries, side, side, generator=generator)
    masks = torch.zeros(queries, side, side, dtype=torch.uint8)
    masks[::2, : side // 8, : side // 8] = 1
    types = tuple("defect" if i % 2 == 0 else GOOD for i in range(queries))
    scored = Scored(tuple(map(str, range(queries))), types, maps.amax((1, 2)), maps, masks)
    return _seconds(lambda: measure(scored)) / queries


def _seconds(run: Callable[[], object]) -> float:
    """The shortest of a few times, after one that does not count."""
    run()
    taken = []
    for _ in range(TURNS):
        start = time.perf_counter()
        found = run()
        if isinstance(found, Tensor) and found.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken)
