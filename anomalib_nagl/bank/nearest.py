"""Which reference a prediction resembles most, without torch; ``core.reference_similarity`` does so for batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches, normal_owners
from anomalib_nagl.bank.defect_types import DefectType, KnownTypes, known_types, type_of_defect
from anomalib_nagl.bank.pools import counts, heads
from anomalib_nagl.bank.reference import Reference

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class NearestReference:
    """A reference and how alike it is: the cosine similarity, at most 1, that ``reference_similarity`` defines.

    ``found_type`` is the known type that the query's defect resembles most, whatever reference is nearest; None where
    fewer than two types are known. Of a good part it says nothing.
    """

    index: int
    kind: str
    name: str
    defect_type: str
    similarity: float
    found_type: DefectType | None = None

    def __str__(self) -> str:
        """For people."""
        return f"most like {self.kind} reference {self.name} ({self.defect_type}), similarity {self.similarity:.3f}"


class OwnedPatches(NamedTuple):
    """Patches (P, C) of length 1 that are compared with, whose they are (P,), and the types of known defects."""

    tokens: Floats
    owner: NDArray[Any]
    types: KnownTypes | None = None


def owned_patches(patches: ReferencePatches, references: Sequence[Reference] = ()) -> OwnedPatches:
    """Normal patches of normal references and marked ones of abnormal references, as far as they are compared with.

    ``references`` are those of the patches, normal ones first, if types are to be told.
    """
    marked = [one.marked for one in patches.abnormal]
    kept = counts(marked, patches.limits.defects)
    tokens = np.concatenate(
        [
            heads(patches.normal, patches.limits.normal, patches.width),
            heads(marked, patches.limits.defects, patches.width),
        ]
    )
    owner = np.concatenate([normal_owners(patches), len(patches.normal) + np.repeat(np.arange(len(kept)), kept)])
    named = [one.defect_type for one in references[len(patches.normal) :]]
    types = known_types(patches, named) if named else None
    return OwnedPatches(_unit(tokens), owner.astype(np.int64), types)


def nearest_reference(
    tokens: Floats, scores: Floats, owned: OwnedPatches, references: Sequence[Reference], cells: int | None = None
) -> NearestReference | None:
    """The reference that the patches (M, C) with the highest 1 % of the scores (M,) resemble most.

    ``references`` are those that own patches, normal ones first. Where no more than ``cells`` patches are looked at it
    is 1 % of these. None where there is no patch to compare with.
    """
    if not len(owned.tokens):
        return None
    count = max(int(0.01 * (len(scores) if cells is None else cells)), 1)
    top = np.argsort(-scores, kind="stable")[:count]
    cosine = _unit(tokens[top]) @ owned.tokens.T
    best = np.full((count, len(references)), -1.0, np.float32)
    starts = np.flatnonzero(np.diff(owned.owner, prepend=-1))  # patches of one owner lie together
    best[:, owned.owner[starts]] = np.maximum.reduceat(cosine, starts, axis=1)
    mean = best.mean(axis=0)
    index = int(mean.argmax())
    one = references[index]
    found_type = type_of_defect(tokens[top], owned.types)
    return NearestReference(index, one.kind, one.name, one.defect_type, float(mean[index]), found_type)


def _unit(tokens: Floats) -> Floats:
    length = np.linalg.norm(tokens, axis=-1, keepdims=True)
    found: Floats = (tokens / np.maximum(length, 1e-8)).astype(np.float32)
    return found
