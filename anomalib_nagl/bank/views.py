"""Views of a reference: the image turned and mirrored, for parts that may lie any way.

A view is a symmetry of the square, numbered 0 to 7: so many quarter turns to the left, from 4 on of the mirrored image.
Where a part always lies one way a turned part is a defect: there only the image as it is may count as normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Facts = Mapping[str, Any]
VIEWS = {"none": (0,), "turns": (0, 1, 2, 3), "all": tuple(range(8))}


def symmetries(views: str, size: tuple[int, int]) -> tuple[int, ...]:
    """Numbers of the views of a name for a network input (height, width), the image as it is first.

    An input that is not square has no quarter turns. ValueError for a name that does not exist.
    """
    if views not in VIEWS:
        raise ValueError(f"found views {str(views)[:40]!r}, expected auto, or one of {', '.join(VIEWS)}")
    square = size[0] == size[1]
    return tuple(number for number in VIEWS[views] if square or number % 2 == 0)


def view(image: NDArray[Any], number: int) -> NDArray[Any]:
    """An image (..., H, W) as a view shows it; a copy of the pixels is not made."""
    return np.rot90(image[..., ::-1] if number >= 4 else image, number % 4, (-2, -1))


def origins(grid: tuple[int, int], numbers: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the patches of all views, one view after the other, lie in the image as it is: (V * M,)."""
    places = np.arange(grid[0] * grid[1]).reshape(grid)
    return np.concatenate([view(places, number).reshape(-1) for number in numbers])


def views_of(facts: Facts) -> tuple[int, ...]:
    """The views of every reference of a model of these facts; of one from before there were any, the image alone."""
    return symmetries(facts.get("views", "none"), (int(facts["image_size"][0]), int(facts["image_size"][1])))


def cells_of(facts: Facts) -> int:
    """Number of patches of an image in all its views."""
    return int(facts["grid"][0]) * int(facts["grid"][1]) * len(views_of(facts))
