"""References as a model takes them, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class ReferenceTokens(NamedTuple):
    """Tokens (n, V * M, C) and (a, V * M, C) of the V views of references, one view after the other.

    Which patches of the abnormal ones are abnormal, (a, M), is said of the image as it is.
    ``localized`` (a,) are those whose mask was given and tells where the defect is. ``keys`` of the n + a references,
    made of their images and masks, decide which of many come first; without any their tokens do.
    """

    normal: Tensor
    abnormal: Tensor
    patch_mask: Tensor
    localized: Tensor
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdaptedState:
    """All that a query is compared with: the tensors of ``bank.adapted.TENSORS`` by name.

    ``owners`` (P,) says whose the first patches of the normal bank are, those of normal references.
    """

    tensors: Mapping[str, Tensor]
    owners: Tensor

    def __getitem__(self, name: str) -> Tensor:
        """One of the tensors."""
        return self.tensors[name]

    def replace(self, **tensors: Tensor) -> AdaptedState:
        """The same with other tensors in place of some."""
        return AdaptedState({**self.tensors, **tensors}, self.owners)

    def batched(self) -> dict[str, Tensor]:
        """The tensors with a first side of 1, as the head takes them."""
        return {name: tensor[None] for name, tensor in self.tensors.items()}


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as float32 on the CPU, in which everything is computed that is decided once."""
    return tensor.detach().float().cpu().numpy()
