"""Whether what a file holds are weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_SHOWN = 5  # problems listed in an error


def check_weights(state: Mapping[Any, Any], what: str) -> None:
    """Raise ValueError that names every tensor of a file which holds no weights, or some that are no numbers."""
    problems = [f"{name} {problem}" for name, one in state.items() if (problem := _problem(one))]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"found {what} whose weights cannot be used ({'; '.join(problems[:_SHOWN])}{more}), expected finite "
            "numbers: copy the file again, or train anew"
        )


def _problem(one: object) -> str:
    """Why something is no weight; empty if it is one."""
    if not isinstance(one, Tensor):
        return f"is of type {type(one).__name__}"
    if one.layout is not torch.strided or one.is_meta:
        return "is not stored number by number"
    if one.is_complex():
        return "is complex"
    return "" if bool(torch.isfinite(one).all()) else "is NaN or infinite somewhere"
