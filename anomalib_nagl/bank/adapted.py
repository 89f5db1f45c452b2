"""What a query is compared with: tensors that are made of the references once, here, for torch and the box alike.

A new tensor is one entry of ``TENSORS`` with the rule that makes it: the model's buffers, exported graphs and the box
take it from there, and a fusion rule (``core/fusion.py``) finds it under its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.patch_masks import away_from_mask
from anomalib_nagl.io.errors import EdgeError

Floats = NDArray[np.float32]


class ReferencePatches(NamedTuple):
    """Patch tokens of a set of references, all that the rules read.

    ``normal`` holds the patches (P, C) of each normal reference, all of them or a coreset; ``abnormal`` is (a, M, C),
    its ``patch_mask`` 0/1 (a, M). Only ``localized`` (a,) references, whose mask was given and is not the full image,
    tell where a defect and its surroundings are. With ``context`` these surroundings count as normal.
    """

    normal: tuple[Floats, ...]
    abnormal: Floats
    patch_mask: Floats
    localized: NDArray[np.bool_]
    grid: tuple[int, int]
    context: bool


class Dimensions(NamedTuple):
    """Width C of a token and number Q of proxies."""

    width: int
    proxies: int


@dataclass(frozen=True)
class ReferenceTensor:
    """One tensor of a set of references: its name, its shape (None: grows with the references), the rule that makes it.

    Without a rule it is made by residual mining, of all the others.
    """

    name: str
    shape: Callable[[Dimensions], tuple[int | None, ...]]
    rule: Callable[[ReferencePatches], NDArray[Any]] | None

    @property
    def grows(self) -> bool:
        """Whether its first side depends on the references."""
        return self.shape(Dimensions(1, 1))[0] is None

    def empty(self, sizes: Dimensions) -> Floats:
        """Zeros of its shape, none where it grows."""
        return np.zeros([side or 0 for side in self.shape(sizes)], np.float32)


def normal_bank(patches: ReferencePatches) -> Floats:
    """Patches (K, C) that count as normal: those of the normal references, then ``surroundings``.

    Without normal references, the patches of abnormal ones that are not abnormal (section 10). EdgeError, a ValueError,
    if none is left.
    """
    if patches.normal:
        return np.concatenate([*patches.normal, surroundings(patches)])
    if not len(patches.abnormal):
        raise EdgeError("found no references at all, expected at least one normal or abnormal image: add one")
    bank = patches.abnormal[patches.patch_mask == 0]
    if not len(bank):
        raise EdgeError(
            "found references without a single normal patch, expected at least one: add a normal reference, or a mask "
            "that does not cover the full image"
        )
    return bank


def surroundings(patches: ReferencePatches) -> Floats:
    """Patches of localized abnormal references away from their masks: normal too, with ``context``."""
    used = [i for i in range(len(patches.abnormal)) if patches.context and patches.normal and patches.localized[i]]
    away = [patches.abnormal[i][away_from_mask(patches.patch_mask[i], patches.grid)] for i in used]
    return np.concatenate([np.empty((0, patches.abnormal.shape[-1]), np.float32), *away])


def defect_bank(patches: ReferencePatches) -> Floats:
    """Patches (D, C) of known defects; without any, a zero one, which is as like any patch as any other."""
    bank: Floats = patches.abnormal[(patches.patch_mask > 0) & patches.localized[:, None]]
    return bank if len(bank) else np.zeros((1, patches.abnormal.shape[-1]), np.float32)


def reference_kinds(patches: ReferencePatches) -> Floats:
    """0/1 (2,): are there normal, and abnormal references."""
    return np.array([len(patches.normal) > 0, len(patches.abnormal) > 0], np.float32)


TENSORS: list[ReferenceTensor] = [
    ReferenceTensor("normal_bank", lambda sizes: (None, sizes.width), normal_bank),
    ReferenceTensor("residual_proxies", lambda sizes: (sizes.proxies, sizes.width), None),
    ReferenceTensor("defect_bank", lambda sizes: (None, sizes.width), defect_bank),
    ReferenceTensor("reference_kinds", lambda sizes: (2,), reference_kinds),
]


def assemble(patches: ReferencePatches) -> dict[str, Floats]:
    """Every tensor of these references that has a rule, by name."""
    return {
        tensor.name: np.ascontiguousarray(tensor.rule(patches), np.float32)
        for tensor in TENSORS
        if tensor.rule is not None
    }
