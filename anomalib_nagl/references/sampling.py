"""Which images become references: named strategies, the same for folders, datamodules and evaluations.

``uniform``, the default, draws every image with the same probability. ``per_type`` draws from as many defect types as
possible: no type comes a second time before every other one came once. Both put the candidates in an order of which
the first k are the k-shot set, so that more shots contain the fewer. ``published`` is the rule of the paper's own
evaluation as far as it concerns references: of one defect type, drawn at random, and sorted by path, slice number
``seed`` of as many files as asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalib_nagl.references.names import STRATEGIES, check_name
from anomalib_nagl.references.reference_set import Read, ReferenceSet, load_references
from anomalib_nagl.references.sample import GOOD, Sample

__all__ = [
    "ABNORMAL",
    "GOOD",
    "NORMAL",
    "STRATEGIES",
    "Sample",
    "SupportSet",
    "draw",
    "order",
    "published_slice",
    "spread_types",
    "take",
]
logger = logging.getLogger(__name__)
NORMAL, ABNORMAL = 0, 1  # streams of random numbers: more references of one label keep those of the other


@dataclass(frozen=True)
class SupportSet:
    """The images that were chosen as references."""

    normal: tuple[Sample, ...] = ()
    abnormal: tuple[Sample, ...] = ()

    @property
    def paths(self) -> frozenset[str]:
        """Paths of all chosen images."""
        return frozenset(sample.image for sample in self.normal + self.abnormal)

    def load(self, masks: str = "auto", read: Read | None = None) -> ReferenceSet:
        """Read images and masks as ``load_references`` does; ValueError names the first that will not do."""
        return load_references(self.normal, self.abnormal, masks, read)

    def __str__(self) -> str:
        """Label or defect type and path of every image, in one line for logs."""
        listed = [f"normal {s.image}" for s in self.normal] + [f"{s.defect_type} {s.image}" for s in self.abnormal]
        return "; ".join(listed)


def order(candidates: Sequence[Sample], strategy: str, seed: int, stream: int) -> tuple[Sample, ...]:
    """Put all candidates in the order in which they become references; the first k are the k-shot set.

    ``stream`` is NORMAL or ABNORMAL. Raises ValueError for an unknown strategy, and for ``published``, whose sets of
    different sizes do not contain each other: ``take`` has them.
    """
    check_name("strategy", strategy, STRATEGIES)
    generator = np.random.default_rng([seed, stream])
    if strategy == "published":
        raise ValueError(
            "found strategy='published' where larger sets of references have to contain the smaller, expected uniform "
            "or per_type: its slices of different sizes are different files"
        )
    return spread_types(candidates, generator) if strategy == "per_type" else _shuffle(candidates, generator)


def take(candidates: Sequence[Sample], count: int, strategy: str, seed: int, stream: int) -> tuple[Sample, ...]:
    """Choose ``count`` of the candidates, or fewer where there are fewer; ValueError as for ``order``.

    With ``published`` a slice that reaches beyond the last file is shorter, as published, and ValueError is raised when
    nothing is left.
    """
    if strategy != "published":
        return order(candidates, strategy, seed, stream)[:count]
    types = sorted({sample.defect_type for sample in candidates})
    if not types or not count:
        return ()
    defect_type = types[int(np.random.default_rng([seed, stream]).integers(len(types)))]
    chosen = published_slice([s for s in candidates if s.defect_type == defect_type], count, seed, defect_type)
    if len(chosen) < count:
        logger.warning("The published slice of seed %d has %d instead of %d images.", seed, len(chosen), count)
    return chosen


def draw(
    normal: Sequence[Sample],
    abnormal: Sequence[Sample],
    n_normal: int | None,
    n_abnormal: int | None,
    seed: int,
    strategy: str = "uniform",
    place: str = "the candidates",
) -> SupportSet:
    """Choose as many references as asked for, or all where a count is None.

    Raises ValueError for an unknown strategy, or when ``place``, where the candidates come from, has fewer of them.
    """
    check_name("strategy", strategy, STRATEGIES)
    chosen = []
    for label, stream, pool, count in (
        ("normal", NORMAL, normal, n_normal),
        ("abnormal", ABNORMAL, abnormal, n_abnormal),
    ):
        if count is not None and not 0 <= count <= len(pool):
            raise ValueError(
                f"found {len(pool)} {label} images in {place} and n_{label}={count}, expected at least as many: "
                f"add images, or leave n_{label} out to take all"
            )
        chosen.append(tuple(pool) if count is None else take(pool, count, strategy, seed, stream))
    return SupportSet(*chosen)


def published_slice(candidates: Sequence[Sample], count: int, seed: int, place: str) -> tuple[Sample, ...]:
    """Files ``seed * count`` to ``(seed + 1) * count - 1`` by path, fewer at the end of the list.

    Raises ValueError when there are none that far; ``place`` tells where they were looked for.
    """
    chosen = tuple(sorted(candidates, key=lambda sample: sample.image)[seed * count : (seed + 1) * count])
    if count and not chosen:
        raise ValueError(
            f"the published rule takes files {seed * count} to {(seed + 1) * count - 1} of {place}, "
            f"which has {len(candidates)}"
        )
    return chosen


def spread_types(candidates: Sequence[Sample], generator: np.random.Generator) -> tuple[Sample, ...]:
    """Shuffle, then bring forward the first image of every defect type, then the second ones, and so on."""
    shuffled = _shuffle(candidates, generator)
    seen: dict[str, int] = {}
    turn = []
    for sample in shuffled:
        turn.append(seen.get(sample.defect_type, 0))
        seen[sample.defect_type] = turn[-1] + 1
    return tuple(shuffled[i] for i in sorted(range(len(shuffled)), key=lambda i: turn[i]))


def _shuffle(candidates: Sequence[Sample], generator: np.random.Generator) -> tuple[Sample, ...]:
    return tuple(candidates[i] for i in generator.permutation(len(candidates)))
