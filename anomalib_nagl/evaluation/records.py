"""What an evaluation is made of: its cells, and a model's scores of the queries of one."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings and results are read without torch
    from torch import Tensor

IMAGE_METRICS = ("image_AUROC", "image_AP", "image_F1max")
PIXEL_METRICS = ("pixel_AUROC", "pixel_AP", "pixel_F1max", "AUPRO")
METRICS = IMAGE_METRICS + PIXEL_METRICS
GOOD = "good"  # the type of queries without a defect


@dataclass(frozen=True)
class Cell:
    """One number of each metric: a model on a target category, with one draw of references, under one protocol.

    ``domain`` is that of the category. ``n`` and ``a`` count normal and abnormal references. ``training_seed`` is -1
    for models that are not trained. ``source`` says what the head was trained on: ``other_domains``, ``same_domain``
    (the other categories of the target's domain) or ``same_object`` (the target category itself). ``abnormal`` says
    where the abnormal references come from: ``real``, ``cut_paste`` or ``perlin``. No reference at all, 0 + 0, stands
    for every normal image of the train split.
    """

    model: str
    category: str
    domain: str
    n: int
    a: int
    reference_seed: int
    training_seed: int
    protocol: str
    source: str = "other_domains"
    abnormal: str = "real"

    @property
    def as_scored(self) -> Cell:
        """The cell whose scores this one shares: ``unseen`` leaves some queries of ``fixed`` out.

        Draws of references leave out different queries of a model that learns from every normal image.
        """
        cell = replace(self, protocol="fixed") if self.protocol == "unseen" else self
        return replace(cell, reference_seed=0) if cell.learns_from_all else cell

    @property
    def learns_from_all(self) -> bool:
        """Whether the model learns from every normal image of the train split."""
        return self.n == self.a == 0

    @property
    def key(self) -> str:
        """A name for files, the same for equal cells and different for others."""
        parts = (str(getattr(self, field.name)) for field in fields(self))
        return "_".join(re.sub(r"[^A-Za-z0-9.+-]", "-", part) for part in parts)


@dataclass(frozen=True)
class Scored:
    """A model's scores of P queries: paths as seen from the data's root (POSIX), defect types (``GOOD`` for none).

    Image scores (P,), anomaly maps (P, H, W) and 0/1 masks (P, H, W) of the same size; larger scores are anomalous.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    scores: Tensor
    maps: Tensor
    masks: Tensor

    def only(self, kept: list[int]) -> Scored:
        """The same of some of the queries, by their places."""
        return Scored(
            tuple(self.names[i] for i in kept),
            tuple(self.types[i] for i in kept),
            self.scores[kept],
            self.maps[kept],
            self.masks[kept],
        )
