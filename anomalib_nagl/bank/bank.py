"""The reference bank: what a detector knows of a part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches, assemble


@dataclass(frozen=True)
class Reference:
    """One image that a detector compares with.

    ``kind`` is ``normal`` or ``abnormal``, ``sha256`` that of its 8-bit pixels, ``thumbnail`` a small RGB copy
    (h, w, 3). Computed with are only its patch tokens (M, C), of a normal one perhaps a coreset, which of them are
    abnormal, 0/1 (M,), and whether an abnormal image is ``localized``: its mask was given, and is not the full image.
    """

    kind: str
    name: str
    defect_type: str
    sha256: str
    thumbnail: NDArray[np.uint8] = field(repr=False, compare=False)
    tokens: NDArray[np.float32] = field(repr=False, compare=False)
    patch_mask: NDArray[np.float32] = field(repr=False, compare=False)
    localized: bool = False


@dataclass(frozen=True)
class Bank:
    """References, what residual mining made of them (Q, C), and the raw thresholds (2,) of image scores and pixels.

    ``compatibility`` names the backbone, head and grid that the numbers belong to. Without abnormal references the
    residual proxies are zero.
    """

    references: tuple[Reference, ...]
    residual_proxies: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    compatibility: dict[str, Any]

    @property
    def normal(self) -> tuple[Reference, ...]:
        """The normal references."""
        return tuple(one for one in self.references if one.kind == "normal")

    @property
    def abnormal(self) -> tuple[Reference, ...]:
        """The abnormal references."""
        return tuple(one for one in self.references if one.kind == "abnormal")

    def patches(self) -> ReferencePatches:
        """The references as the rules of ``adapted`` read them."""
        (rows, cols), dim = self.compatibility["grid"], self.compatibility["dim"]
        known = self.abnormal
        return ReferencePatches(
            tuple(one.tokens for one in self.normal),
            np.array([one.tokens for one in known], np.float32).reshape(-1, rows * cols, dim),
            np.array([one.patch_mask for one in known], np.float32).reshape(-1, rows * cols),
            np.array([one.localized for one in known], dtype=bool),
            (rows, cols),
            bool(self.compatibility["context"]),
        )

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The tensors that a query is compared with, by name; EdgeError when there is no normal patch."""
        return {**assemble(self.patches()), "residual_proxies": self.residual_proxies}
