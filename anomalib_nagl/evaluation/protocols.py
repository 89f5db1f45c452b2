"""Which pictures are references and which are queries: the rules that a number depends on, as pure functions.

``fixed``, the default: one set of references for a category and seed, normal ones of the train split and defective ones
drawn uniformly from the test split, the same for good and defective queries. More shots of a seed contain the fewer.
No reference is a query. The defective references of the largest shot of an evaluation, and copies of any reference, are
left out for every shot, every model and both protocols alike: rows of one category and seed tell of the same queries.

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
from anomalib_nagl.references.sampling import Sample


class NotPossible(ValueError):
    """A protocol has no pictures for some number of references of a category."""


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
    content: Callable[[Sample], str] = _path,
) -> Draw:
    """References and queries of the protocol ``fixed``.

    ``largest`` is the largest number of normal and of abnormal references in the evaluation; pictures of equal
    ``content`` are copies of each other.
    """
    normal, abnormal = _shuffled(category.normal, seed, 0), _shuffled(category.defects, seed, 1)
    held = {content(sample) for sample in normal[: largest[0]] + abnormal[: largest[1]]}
    queries = tuple(sample for sample in category.good + category.defects if content(sample) not in held)
    return Draw(normal[:n], abnormal[:a], queries)


def unseen(category: Category, draw: Draw, seed: int, abnormal_shots: Sequence[int]) -> list[int]:
    """Places of the queries of a ``fixed`` draw that ``unseen`` keeps.

    ``abnormal_shots`` are the numbers of abnormal references in the evaluation. Raises NotPossible when the references
    of the draw show every type.
    """
    order = _shuffled(category.defects, seed, 1)
    known = set(category.types)
    fitting = [a for a in abnormal_shots if {s.defect_type for s in order[:a]} < known]
    shown = {sample.defect_type for sample in order[: max(fitting, default=0)]}
    if {sample.defect_type for sample in draw.abnormal} - shown:
        raise NotPossible(
            f"the {len(draw.abnormal)} defective references of seed {seed} show every defect type of {category.name}"
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


def _slice(found: tuple[Sample, ...], count: int, seed: int, place: str) -> tuple[Sample, ...]:
    chosen = found[seed * count : (seed + 1) * count]
    if count and not chosen:
        raise NotPossible(f"the published rule takes files {seed * count} to {(seed + 1) * count - 1} of {place}, "
                          f"which has {len(found)}")  # fmt: skip
    return chosen


def _shuffled(found: tuple[Sample, ...], seed: int, stream: int) -> tuple[Sample, ...]:
    """In random order; other streams, so that more references of one kind keep those of the other."""
    order = np.random.default_rng([seed, stream]).permutation(len(found))
    return tuple(found[i] for i in order)
