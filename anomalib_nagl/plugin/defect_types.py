"""The types of a model's known defects, found once for each set of references."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from anomalib_nagl.bank.defect_types import KnownTypes, known_types, type_of_defect
from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.core.state import ReferenceTokens, as_array

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl

# By the tokens they were made of: a model that takes other references, or moves, has others.
_KNOWN: MutableMapping[Tensor, KnownTypes | None] = WeakTensorKeyDictionary()


def types_of(nagl: Nagl) -> KnownTypes | None:
    """The types of known defects of a model, by the rule of the box; None where it knows fewer than two."""
    core = nagl.model
    if core.abnormal_tokens not in _KNOWN:
        types = [record["defect_type"] for record in nagl.references[core.n_normal :]]
        known = ReferenceTokens(
            core.normal_tokens[:0], core.abnormal_tokens, core.abnormal_patch_mask, core.abnormal_localized
        )
        fits = len(types) == len(core.abnormal_tokens)  # references that were set without records have no types
        _KNOWN[core.abnormal_tokens] = known_types(core.patches(known, nagl.bank_limit), types) if fits else None
    return _KNOWN[core.abnormal_tokens]


def with_types(
    nagl: Nagl, nearest: Sequence[NearestReference], tokens: Tensor, score: Tensor
) -> list[NearestReference]:
    """The nearest references of queries (B, M, C) with patch scores (B, M), and the types of what these show."""
    known = types_of(nagl)
    if known is None:
        return list(nearest)
    told = [type_of_defect(as_array(one), known) for one in nagl.model.deciding(tokens, score)]
    return [replace(one, found_type=kind) for one, kind in zip(nearest, told, strict=True)]
