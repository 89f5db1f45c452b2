"""What a process does for one job: train a head, or score queries and finish the cells that share these scores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch.nn.functional as F

from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.baselines import BaselineError, score_baseline
from anomalib_nagl.evaluation.grid import ScoringJob, TrainingJob, training_job
from anomalib_nagl.evaluation.heads import head_path, train_head
from anomalib_nagl.evaluation.metrics import curves, measure
from anomalib_nagl.evaluation.names import baseline_of
from anomalib_nagl.evaluation.protocols import Draw, NotPossible
from anomalib_nagl.evaluation.records import Cell, Scored
from anomalib_nagl.evaluation.results import cell_path, write_cell
from anomalib_nagl.evaluation.scorer import Scorer, device, join
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io.files import atomic_write

MAP_SIDE = 48  # of the maps that are kept for contact sheets


def perform(settings: str, job: TrainingJob | ScoringJob) -> dict[Cell, str]:
    """Train a head, or finish the cells of a job; returns the cells that cannot be computed, with the reason.

    ``settings`` are those of ``as_text``: with the same ones a process keeps its models and the tokens it has read.
    """
    scorer = _scorer(settings)
    if isinstance(job, TrainingJob):
        train_head(scorer.settings, job)
        return {}
    start, refused = time.perf_counter(), {}
    try:
        draws = _draws(scorer, job.cells[0])
        scored = _score(scorer, job.cells[0], draws)
    except NotPossible as error:
        return dict.fromkeys(job.cells, str(error))
    for cell in job.cells:
        try:
            if not cell_path(Path(scorer.settings.out), cell).exists():
                _finish(scorer, cell, draws, scored, start)
        except NotPossible as error:
            refused[cell] = str(error)
        start = time.perf_counter()
    return refused


@lru_cache(maxsize=1)
def _scorer(settings: str) -> Scorer:
    return Scorer(Settings(**json.loads(settings)))


def _draws(scorer: Scorer, cell: Cell) -> tuple[Draw, ...]:
    category, settings = scorer.category(cell.category), scorer.settings
    if cell.learns_from_all:
        return (Draw(category.normal, (), category.good + category.defects),)
    real = cell.a if cell.abnormal == "real" else 0
    if cell.protocol == "paper":
        return protocols.paper(category, cell.n, real, cell.reference_seed)
    shots = (cell.n, real, cell.reference_seed)
    return (protocols.fixed(category, *shots, settings.largest, settings.strategy, scorer.content),)


def _score(scorer: Scorer, cell: Cell, draws: tuple[Draw, ...]) -> Scored:
    """Scores of the queries of all draws."""
    settings, category = scorer.settings, scorer.category(cell.category)
    if baseline_of(cell.model):
        return join([_score_baseline(scorer, cell, draw) for draw in draws])
    training = training_job(settings, cell)
    model = scorer.model(cell.model, None if training is None else head_path(settings, training))
    synthetic = None if cell.abnormal == "real" else (cell.abnormal, cell.a, cell.reference_seed)
    return join([scorer.score(model, category, draw, settings.masks_of(cell.model), synthetic) for draw in draws])


def _score_baseline(scorer: Scorer, cell: Cell, draw: Draw) -> Scored:
    normal, queries = ([Path(sample.image) for sample in samples] for samples in (draw.normal, draw.queries))
    try:
        name = baseline_of(cell.model) or cell.model
        found = score_baseline(name, scorer.settings, normal, queries, cell.category, device())
    except BaselineError as error:
        raise NotPossible(str(error)) from error
    return scorer.scored(scorer.category(cell.category), draw, *found)


def _finish(scorer: Scorer, cell: Cell, draws: tuple[Draw, ...], scored: Scored, start: float) -> None:
    """Write the scores of a cell, then its metrics, which says that it is finished."""
    settings, category = scorer.settings, scorer.category(cell.category)
    if cell.learns_from_all and cell.protocol != "paper":  # what was scored for all draws, of this one
        shots = (0, 0, cell.reference_seed)
        own = protocols.fixed(category, *shots, settings.largest, settings.strategy, scorer.content)
        places = {sample.image: place for place, sample in enumerate(draws[0].queries)}
        scored, draws = scored.only([places[sample.image] for sample in own.queries]), (own,)
    if cell.protocol == "unseen":
        abnormal = [shots.a for shots in settings.parsed_shots]
        scored = scored.only(protocols.unseen(category, draws[0], cell.reference_seed, abnormal, settings.strategy))
    path = Path(settings.out) / "scores" / f"{cell.key}.npz"
    known = [] if cell.abnormal != "real" else [sample.defect_type for draw in draws for sample in draw.abnormal]
    atomic_write(path, partial(_write_scores, cell=cell, scored=scored, known=known))
    write_cell(Path(settings.out), cell, len(scored.names), measure(scored), time.perf_counter() - start)


def _write_scores(file: BinaryIO, cell: Cell, scored: Scored, known: list[str]) -> None:
    content: dict[str, Any] = {
        "names": np.array(scored.names),
        "types": np.array(scored.types),
        "scores": scored.scores.numpy(),
        "reference_types": np.array(known, dtype=str),
        **curves(scored),
    }
    if cell.protocol == "fixed" and cell.reference_seed == 0 and cell.training_seed in (-1, 0):
        side = [min(MAP_SIDE, pixels) for pixels in scored.maps.shape[-2:]]
        content["maps"] = F.interpolate(scored.maps[:, None], side, mode="area")[:, 0].half().numpy()
    save: Callable[..., None] = np.savez_compressed
    save(file, **content)
