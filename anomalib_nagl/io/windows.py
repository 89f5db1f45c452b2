"""How a large image is cut into overlapping windows, and which token of which window is kept; no torch.

Windows lie on multiples of the patch, so that all of them share one grid of tokens. Of each window the middle is kept:
near its border, a network sees less of what is around a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AUTO_SIDE = 448  # pixels of a window where nobody says how many
BLOCK = 4  # windows that are encoded at once, but for a CPU, which takes one
WINDOWS = "which_windows"  # the name of the numbers of windows that an exported encoder sees, in its graph
FINE = 0.5  # share of a deviation that is told by the windows, beside an overview; the rest is told by the overview
LARGE = 1.5  # so many windows long has an image to be, to be cut where nobody says whether
Size = tuple[int, int]
Indices = NDArray[np.int64]


class Cut(NamedTuple):
    """What a model says of its windows: sides (height, width) in pixels, least ``overlap`` of neighbours in pixels.

    With ``overview`` the whole image, resized to one window, is seen beside them.
    """

    window: Size
    overlap: int
    overview: bool

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Cut | None:
        """Of the facts of a model; None where images are seen as a whole."""
        found = facts.get("windows")
        if not found:
            return None
        return cls((int(found["size"][0]), int(found["size"][1])), int(found["overlap"]), bool(found["overview"]))

    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"size": list(self.window), "overlap": self.overlap, "overview": self.overview}


def wants_windows(size: Size) -> bool:
    """Whether an image (height, width) is cut where references decide."""
    return max(size) >= LARGE * AUTO_SIDE


def nearest_multiples(size: Size, patch: int) -> Size:
    """The sides (height, width) to the nearest multiple of the patch, one at least."""
    height, width = (max(round(side / patch), 1) * patch for side in size)
    return height, width


def pooling(size: Size, window: Size) -> Size:
    """How many rows and columns of an image are averaged before it is resized to a window: cheap, and not seen."""
    height, width = (max(side // (2 * target), 1) for side, target in zip(size, window, strict=True))
    return height, width


class Plan(NamedTuple):
    """Where the windows of an image lie, and where its tokens come from.

    ``corners`` (N, 2) are the top and the left of each window in pixels, ``source`` (M,) the place of each token of the
    image among those of all windows, one window after the other.
    """

    window: Size
    corners: Indices
    grid: Size
    source: Indices
    patch: int

    @property
    def inner(self) -> Size:
        """The grid of one window."""
        return self.window[0] // self.patch, self.window[1] // self.patch

    @property
    def owner(self) -> Indices:
        """Which window each token of the image is taken from, (M,)."""
        return self.source // (self.inner[0] * self.inner[1])


def plan_windows(size: Size, window: Size, overlap: int, patch: int) -> Plan:
    """Plan the windows of an image of a size (height, width); all sides in pixels, multiples of the patch.

    An image that is smaller than a window along an axis has one window there, as long as itself. ValueError for an
    overlap that leaves nothing new to a window.
    """
    down, right = (_axis(length, side, overlap, patch) for length, side in zip(size, window, strict=True))
    rows, cols = down.side // patch, right.side // patch
    corners = [(top, left) for top in down.starts for left in right.starts]
    # A token of row i and column j of the image: its window, then its place in there.
    which = down.owner[:, None] * len(right.starts) + right.owner[None]
    inside = down.place[:, None] * cols + right.place[None]
    return Plan(
        (down.side, right.side),
        np.array(corners, np.int64),
        (len(down.owner), len(right.owner)),
        (which * (rows * cols) + inside).reshape(-1),
        patch,
    )


class _Axis(NamedTuple):
    """Windows along one axis: their side and starts in pixels; of each cell the window and the place in it."""

    side: int
    starts: list[int]
    owner: Indices
    place: Indices


def _axis(length: int, window: int, overlap: int, patch: int) -> _Axis:
    side = min(window, length)
    if not 0 <= overlap <= side - patch and length > side:
        raise ValueError(
            f"found an overlap of {overlap} pixels for windows of {side}, expected one from 0 to {side - patch}: "
            "choose a smaller overlap, or larger windows"
        )
    count = 1 if length <= side else -(-(length - overlap) // (side - overlap))
    cells, reach = length // patch, (length - side) // patch  # in patches from here on
    starts = np.array([round(i * reach / max(count - 1, 1)) for i in range(count)], np.int64)
    # The window whose middle is nearest; the first of two.
    distance = np.abs(2 * np.arange(cells)[:, None] + 1 - (2 * starts + side // patch)[None])
    inside = (np.arange(cells)[:, None] >= starts) & (np.arange(cells)[:, None] < starts + side // patch)
    owner = np.where(inside, distance, 4 * cells).argmin(axis=1)
    return _Axis(side, [int(start) * patch for start in starts], owner, np.arange(cells) - starts[owner])


def megabytes(plan: Plan, width: int) -> int:
    """Roughly what an image of a plan needs while it is scored in torch, with tokens of so many numbers.

    Four copies of the image, eight of its tokens, and what a network computes of the windows that it sees at once.
    """
    pixels = (plan.grid[0] * plan.grid[1]) * plan.patch**2
    tokens = plan.grid[0] * plan.grid[1] * width
    block = BLOCK * plan.window[0] * plan.window[1] * 64  # the widest layer of a small network, at half the side
    return round(4 * (4 * 3 * pixels + 8 * tokens + block / 4) / 2**20)


def enlarge(tokens: NDArray[np.float32], coarse: Size, grid: Size) -> NDArray[np.float32]:
    """Tokens (m, C) of the whole image on a coarse grid, between their centres, on the grid of its windows: (M, C)."""
    down, right = between(coarse[0], grid[0]), between(coarse[1], grid[1])
    cells = tokens.reshape(*coarse, -1)
    wide = np.einsum("ij,rjc->ric", right, cells)
    return np.einsum("ij,jkc->ikc", down, wide).reshape(grid[0] * grid[1], -1).astype(np.float32)


def between(coarse: int, fine: int) -> NDArray[np.float32]:
    """Weights (fine, coarse) of linear interpolation between the centres of cells along one axis."""
    centre = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
    return np.maximum(1 - np.abs(centre[:, None] - np.arange(coarse)), 0).astype(np.float32)


def join_windows(
    plan: Plan, found: NDArray[np.float32], which: Indices, overview: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Tokens (M, C) of an image of which only some windows were seen, zero elsewhere, and which are known (M,).

    ``found`` (n, m, c) are tokens of the windows ``which`` (n,), rising, those of the overview last if there is one.
    """
    number = np.full(len(plan.corners), -1)
    number[which] = np.arange(len(which))
    cells, mine = plan.inner[0] * plan.inner[1], number[plan.owner]
    known: NDArray[np.bool_] = mine >= 0
    fine = found.reshape(-1, found.shape[-1])[(mine * cells + plan.source % cells)[known]]
    if overview:
        coarse = enlarge(_unit(found[-1]), plan.inner, plan.grid)[known]
        parts = ((FINE, fine), (1 - FINE, coarse))
        fine = np.concatenate([np.float32(share**0.5) * _unit(part) for share, part in parts], axis=1)
    tokens = np.zeros((len(known), fine.shape[1]), np.float32)
    tokens[known] = fine
    return tokens, known


def _unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(tokens, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = tokens / np.maximum(length, np.float32(1e-12))
    return unit
