"""What kind of known defect a defect is, or that it is none of them: for torch and the box alike, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.patch_masks import l2_normalize
from anomalib_nagl.bank.pools import counts

UNKNOWN = "unknown"
Floats = NDArray[np.float32]
Places = NDArray[np.int64]


class DefectType(NamedTuple):
    """The known type that a defect resembles most, how much, and whether enough to be one: the ``label`` says."""

    nearest: str
    similarity: float
    known: bool

    @property
    def label(self) -> str:
        """The type, or ``UNKNOWN``."""
        return self.nearest if self.known else UNKNOWN

    def __str__(self) -> str:
        """For people."""
        return f"{self.label}, similarity {self.similarity:.3f}"


class KnownTypes(NamedTuple):
    """Unit patches (P, C) of known defects, the places (P,) of their types in ``names``, and the least similarity.

    A defect less like its nearest type is of an unknown one.
    """

    names: tuple[str, ...]
    patches: Floats
    owner: Places
    least: float


def known_types(patches: ReferencePatches, types: Sequence[str]) -> KnownTypes | None:
    """Types of known defects, of abnormal references whose ``types`` these are; None of fewer than two.

    References count that show where the defect is, with the patches that a query is compared with. The least
    similarity is how alike defects of different types are here: of each reference the largest similarity to another
    type, their mean and one standard deviation more.
    """
    marked = [one.marked for one in patches.abnormal]
    kept = counts(marked, patches.limits.defects)
    used = [i for i, one in enumerate(patches.abnormal) if one.shown and kept[i]]
    names = tuple(sorted({types[i] for i in used}))
    if len(names) < 2:
        return None
    shown = [l2_normalize(marked[i].head(kept[i])) for i in used]
    places, sizes = np.array([names.index(types[i]) for i in used]), np.array([len(one) for one in shown])
    found = KnownTypes(names, np.concatenate(shown).astype(np.float32), np.repeat(places, sizes), -1.0)
    nearest = _nearest(found.patches, found)
    alike = np.add.reduceat(nearest, np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]  # of references and types
    alike[np.arange(len(places)), places] = -1
    others = alike.max(axis=1)
    return found._replace(least=float(others.mean() + others.std()))


def likeness(tokens: Floats, known: KnownTypes) -> Floats:
    """How alike patches (K, C) and each type are, (T,): the mean of their cosines to its nearest patch."""
    found: Floats = _nearest(l2_normalize(tokens), known).mean(axis=0)
    return found


def _nearest(unit: Floats, known: KnownTypes) -> Floats:
    """Cosine of unit patches (K, C) to the nearest patch of each type, (K, T)."""
    cosine = unit @ known.patches.T
    return np.stack([cosine[:, known.owner == place].max(axis=1) for place in range(len(known.names))], axis=1)


def type_of_defect(tokens: Floats, known: KnownTypes | None) -> DefectType | None:
    """The type of the defect that patches (K, C) show, those that decide a score; None if no types are known."""
    if known is None or not len(tokens):
        return None
    alike = likeness(tokens, known)
    place = int(alike.argmax())
    return DefectType(known.names[place], float(alike[place]), bool(alike[place] >= known.least))
