"""What one unit of work computes: the rows of its cells, and a file of scores for each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch.nn.functional as F

from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.grid import Head, Unit, head_of
from anomalib_nagl.evaluation.heads import head_path, train_head
from anomalib_nagl.evaluation.protocols import Draw, NotPossible
from anomalib_nagl.evaluation.records import Cell, Scored
from anomalib_nagl.evaluation.results import Row
from anomalib_nagl.evaluation.scoring import Bench, join, learned, naive
from anomalib_nagl.io.files import atomic_write
from anomalib_nagl.plugin.selection import Sample
from anomalib_nagl.references.images import picture_hash

MAP_SIDE = 48  # of the maps that are kept for contact sheets


def perform(bench: Bench, job: Head | Unit) -> Iterator[Row]:
    """Train a head, or compute the rows of a unit as they are finished."""
    if isinstance(job, Head):
        train_head(bench.settings, job)
        return
    try:
        draws = _draws(bench, job.cells[0])
    except NotPossible as error:
        yield from (Row.not_run(cell, str(error)) for cell in job.cells)
        return
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in job.cells:
        groups.setdefault((cell.training_seed, cell.source), []).append(cell)
    for cells in groups.values():
        start = time.perf_counter()
        try:
            scored = _score(bench, cells[0], draws)
        except NotPossible as error:
            yield from (Row.not_run(cell, str(error)) for cell in cells)
            continue
        for cell in cells:
            yield _row(bench, cell, draws, scored, start)
            start = time.perf_counter()


def _draws(bench: Bench, cell: Cell) -> tuple[Draw, ...]:
    category, settings = bench.category(cell.category), bench.settings
    real = cell.a if cell.abnormal == "real" else 0
    if cell.protocol == "paper":
        return protocols.paper(category, cell.n, real, cell.reference_seed)
    shots = (cell.n, real, cell.reference_seed, settings.largest)
    return (protocols.fixed(category, *shots, content=_content),)


def _content(sample: Sample) -> str:
    return picture_hash(sample.image)


def _score(bench: Bench, cell: Cell, draws: tuple[Draw, ...]) -> Scored:
    """Scores of the queries of all draws."""
    settings, category = bench.settings, bench.category(cell.category)
    if cell.model not in (*settings.heads, "normal_only", "naive"):
        return join([_score_peer(bench, cell, category, draw) for draw in draws])
    model, rule, synthetic = bench.untrained(), learned, None
    if cell.model == "naive":
        rule = naive
    elif cell.model != "normal_only":
        model = bench.trained(cell.model, head_path(settings, head_of(settings, cell)))
        synthetic = None if cell.abnormal == "real" else (cell.abnormal, cell.a, cell.reference_seed)
    return join([bench.score(model, rule, category, draw, synthetic) for draw in draws])


def _score_peer(bench: Bench, cell: Cell, category: Category, draw: Draw) -> Scored:
    from anomalib_nagl.evaluation.baselines import PeerError, score_peer

    normal, queries = ([Path(sample.image) for sample in found] for found in (draw.normal, draw.queries))
    try:
        found = score_peer(cell.model, bench.settings, normal, queries, category=cell.category)
    except PeerError as error:
        raise NotPossible(str(error)) from error
    return bench.scored(category, draw, *found)


def _row(bench: Bench, cell: Cell, draws: tuple[Draw, ...], scored: Scored, start: float) -> Row:
    from anomalib_nagl.evaluation.metrics import measure

    if cell.protocol == "unseen":
        abnormal_shots = [shots.a for shots in bench.settings.parsed_shots]
        try:
            kept = protocols.unseen(bench.category(cell.category), draws[0], cell.reference_seed, abnormal_shots)
        except NotPossible as error:
            return Row.not_run(cell, str(error))
        scored = scored.only(kept)
    found = measure(scored)
    path = Path(bench.settings.out) / "scores" / f"{cell.key}.npz"
    known = [] if cell.abnormal != "real" else [sample.defect_type for draw in draws for sample in draw.abnormal]
    atomic_write(path, partial(_write_scores, cell=cell, scored=scored, known=known))
    return Row(cell, "done", "", len(scored.names), found, time.perf_counter() - start)


def _write_scores(file: BinaryIO, cell: Cell, scored: Scored, known: list[str]) -> None:
    from anomalib_nagl.evaluation.metrics import curves

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
