"""Which images are references and which are queries: the rules that a number depends on, as pure functions.

``fixed``, the default: one set of references for a category and seed, normal ones of the train split and abnormal ones
of the test split, drawn by a strategy of ``references.sampling``, the same for good and defective queries. More shots
of a seed contain the fewer. No reference is a query. The abnormal references of the largest shot of an evaluation, and
copies of any reference, are left out for every shot, every model and both protocols alike: rows of one category and
seed tell of the same queries.

``unseen``: as ``fixed``, without queries of defect types that the references show. Again of those of the largest shot
that leaves a type over, for all rows alike; larger shots are not run.

``paper``: the published rule (specification, section 14), with its leaks (Q17): sorted slices by seed, a reference of
the query's own defect type and taken from the queries themselves, for good queries of a random type. Only the random
type is seeded here. For comparison with published figures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.references.sampling import ABNORMAL, NORMAL, Sample, order, published_slice


class NotPossible(ValueError):
    """A protocol has no images for some number of references of a category."""


class Draw(NamedTuple):
    """References, and the queries that are scored with them."""

    normal: tuple[Sample, ...]
    abnormal: tuple[Sample, ...]
    queries: tuple[Sample, ...]


def _path(sample: Sample) -> str:
    return sample.image


def fixed(
    category: Category,
    n: int,
    a: int,
    seed: int,
    largest: tuple[int, int],
    strategy: str = "uniform",
    content: Callable[[Sample], str] = _path,
) -> Draw:
    """References and queries of the protocol ``fixed``.

    ``largest`` is the largest number of normal and of abnormal references in the evaluation; images of equal
    ``content`` are copies of each other.
    """
    normal = order(category.normal, strategy, seed, NORMAL)
    abnormal = order(category.defects, strategy, seed, ABNORMAL)
    held = {content(sample) for sample in normal[: largest[0]] + abnormal[: largest[1]]}
    queries = tuple(sample for sample in category.good + category.defects if content(sample) not in held)
    return Draw(normal[:n], abnormal[:a], queries)


def unseen(
    category: Category, draw: Draw, seed: int, abnormal_shots: Sequence[int], strategy: str = "uniform"
) -> list[int]:
    """Places of the queries of a ``fixed`` draw that ``unseen`` keeps.

    ``abnormal_shots`` are the numbers of abnormal references in the evaluation. Raises NotPossible when the references
    of the draw show every type.
    """
    candidates = order(category.defects, strategy, seed, ABNORMAL)
    known = set(category.types)
    fitting = [a for a in abnormal_shots if {s.defect_type for s in candidates[:a]} < known]
    shown = {sample.defect_type for sample in candidates[: max(fitting, default=0)]}
    if {sample.defect_type for sample in draw.abnormal} - shown:
        raise NotPossible(
            f"the {len(draw.abnormal)} abnormal references of seed {seed} show every defect type of {category.name}"
        )
    return [i for i, sample in enumerate(draw.queries) if sample.defect_type not in shown]


def paper(category: Category, n: int, a: int, seed: int) -> tuple[Draw, ...]:
    """References and queries of the protocol ``paper``: a draw for every defect type and for good queries.

    Slices that reach beyond the last file are shorter, as published. Raises NotPossible when one is empty.
    """
    normal = _slice(category.normal, n, seed, "train")
    if not a:
        return (Draw(normal, (), category.good + category.defects),)
    by_type = {name: tuple(s for s in category.defects if s.defect_type == name) for name in category.types}
    generator = np.random.default_rng([seed, *category.name.encode()])
    random_type = category.types[int(generator.integers(len(by_type)))]
    return tuple(
        Draw(
            normal,
            _slice(by_type[random_type if name == GOOD else name], a, seed, f"test/{name}"),
            category.good if name == GOOD else by_type[name],
        )
        for name in sorted((*by_type, GOOD))
    )


def _slice(candidates: tuple[Sample, ...], count: int, seed: int, place: str) -> tuple[Sample, ...]:
    try:
        return published_slice(candidates, count, seed, place)
    except ValueError as error:
        raise NotPossible(str(error)) from error
