"""All cells of an evaluation, and the units of work that share scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.records import Cell
from anomalib_nagl.evaluation.settings import Settings, Shots


class Unit(NamedTuple):
    """Cells of one model, category, protocol family, number and draw of references."""

    cells: tuple[Cell, ...]


class Head(NamedTuple):
    """A head to train: its name in the settings, its source, a target it is for (which stands for its domain), seed."""

    model: str
    source: str
    category: str
    seed: int


def enumerate_cells(settings: Settings, categories: Mapping[str, Category]) -> list[Cell]:
    """Every cell that makes sense, in the order of the results.

    Without abnormal references a head says what ``normal_only`` says, so that is our a = 0; the naive rule needs them.
    Models that read no abnormal reference have one cell for each number of normal ones.
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
    if model in settings.heads:
        return [shots for shots in listed if shots.a]
    if model == "naive":
        return [shots for shots in listed if shots.a and shots.n]
    return [Shots(n, 0) for n in dict.fromkeys(shots.n for shots in listed) if n]


def _cells(settings: Settings, model: str, category: str, shots: Shots, seed: int, protocol: str) -> list[Cell]:
    common = (model, category, settings.domain_of(category), shots.n, shots.a, seed)
    if model not in settings.heads:
        return [Cell(*common, -1, protocol)]
    return [
        Cell(*common, training_seed, protocol, source, abnormal)
        for source in settings.sources
        if settings.sources_of(source, category)
        for abnormal in settings.abnormal
        # Synthetic references are made of normal ones; the published rule knows none.
        if abnormal == "real" or (shots.n and protocol != "paper")
        for training_seed in range(settings.training_seeds)
    ]


def group_units(cells: Iterable[Cell]) -> list[Unit]:
    """Cells by what they share: ``fixed`` and ``unseen`` have the same scores."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        shared = (cell.category, cell.model, cell.n, cell.a, cell.reference_seed, cell.protocol == "paper")
        groups.setdefault((*shared, cell.abnormal), []).append(cell)
    return [Unit(tuple(group)) for group in groups.values()]


def head_of(settings: Settings, cell: Cell) -> Head:
    """The head of a cell: categories of one domain share those that are trained on other domains."""
    category = settings.domains[cell.domain][0] if cell.source == "other_domains" else cell.category
    return Head(cell.model, cell.source, category, cell.training_seed)


def needed_heads(settings: Settings, cells: Iterable[Cell]) -> list[Head]:
    """The heads that some cells need, each once."""
    return list(dict.fromkeys(head_of(settings, cell) for cell in cells if cell.model in settings.heads))
