"""Adapting a head without an encoder that means anything: tokens are made up by the test."""

from __future__ import annotations

from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.state import AdaptedState, ReferenceTokens
from anomalib_nagl.encoders.base import Encoder


class NoEncoder(Encoder):
    """Says which grid and width its tokens would have, and makes none."""

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__("none", (grid[0] * 4, grid[1] * 4), 4, width, (0.5,) * 3, (0.5,) * 3)


def bare_model(head: NaglHead, grid: tuple[int, int]) -> NaglModel:
    """A model around a head."""
    return NaglModel(NoEncoder(grid, head.dim), head)


def adapted(head: NaglHead, tokens: ReferenceTokens, grid: tuple[int, int]) -> AdaptedState:
    """What a head makes of references."""
    return bare_model(head, grid).adapt(tokens)
