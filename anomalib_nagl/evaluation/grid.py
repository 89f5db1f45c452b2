"""All cells of an evaluation, and the jobs that compute them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.names import EVERY_NORMAL
from anomalib_nagl.evaluation.records import Cell
from anomalib_nagl.evaluation.settings import Settings, Shots


class TrainingJob(NamedTuple):
    """A head to train: its name in the settings, its source, a target it is for (which stands for its domain), seed."""

    model: str
    source: str
    category: str
    seed: int


class ScoringJob(NamedTuple):
    """Cells that share the scores of their queries."""

    cells: tuple[Cell, ...]


def enumerate_cells(settings: Settings, categories: Mapping[str, Category]) -> list[Cell]:
    """Every cell that makes sense, in the order of the results.

    Without abnormal references a trained head is ``normal_only``, so that is our a = 0; the naive rule needs them, and
    ``head_free`` takes what it is given. Models that read no abnormal reference have one cell for each number of normal
    ones.
    """
    cells: list[Cell] = []
    for name in settings.evaluated:
        for protocol in settings.protocols:
            if protocol == "unseen" and len(categories[name].types) < 2:
                continue
            for model in settings.models:
                for shots in _shots(settings, model):
                    for seed in range(settings.reference_seeds):
                        cells += _cells(settings, model, name, shots, seed, protocol)
    return cells


def _shots(settings: Settings, model: str) -> list[Shots]:
    listed = settings.parsed_shots
    if model in settings.heads:  # masks are guessed by comparison with normal references
        guessed = settings.masks_of(model) == "guessed"
        return [shots for shots in listed if shots.a and (shots.n or not guessed)]
    if model in EVERY_NORMAL:
        return [Shots(0, 0)]
    if model == "head_free":  # with or without abnormal references, the same rule
        return list(listed)
    if model == "naive":
        return [shots for shots in listed if shots.a and shots.n]
    return [Shots(n, 0) for n in dict.fromkeys(shots.n for shots in listed) if n]


def _cells(settings: Settings, model: str, category: str, shots: Shots, seed: int, protocol: str) -> list[Cell]:
    common = (model, category, settings.domain_of(category), shots.n, shots.a, seed)
    trained = settings.is_trained(model)
    return [
        Cell(*common, training_seed, protocol, source, abnormal)
        for source in (settings.sources if trained else ["other_domains"])
        if not trained or settings.sources_of(source, category)
        for abnormal in (settings.abnormal if _shows_defects(settings, model, shots) else ["real"])
        # Synthetic references are made of normal ones, with their masks; the published rule knows none.
        if abnormal == "real" or (shots.n and protocol != "paper" and settings.masks_of(model) == "given")
        for training_seed in (range(settings.training_seeds) if trained else [-1])
    ]


def _shows_defects(settings: Settings, model: str, shots: Shots) -> bool:
    """Whether a cell's model is shown abnormal references, which may be synthetic ones."""
    return model in settings.heads or (model == "head_free" and shots.a > 0)


def scoring_jobs(cells: Iterable[Cell]) -> list[ScoringJob]:
    """Cells by what they share: ``fixed`` and ``unseen`` have the same scores."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.as_scored, []).append(cell)
    return [ScoringJob(tuple(group)) for group in groups.values()]


def training_job(settings: Settings, cell: Cell) -> TrainingJob | None:
    """The head of a cell: categories of one domain share those trained on other domains; None if it needs none."""
    if not settings.is_trained(cell.model):
        return None
    category = settings.domains[cell.domain][0] if cell.source == "other_domains" else cell.category
    return TrainingJob(settings.training_of(cell.model), cell.source, category, cell.training_seed)


def training_jobs(settings: Settings, cells: Iterable[Cell]) -> list[TrainingJob]:
    """The heads that some cells need, each once."""
    jobs = (training_job(settings, cell) for cell in cells)
    return list(dict.fromkeys(job for job in jobs if job is not None))
