"""JSON that somebody else may have written: read without surprises, and looked at before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from anomalib_nagl.io.errors import EdgeError


def parse_json(text: str | bytes) -> Any:
    """A value of JSON; ValueError if it is none, nested too deeply, or holds NaN and the like, which JSON has not."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def check_keys(found: object, kinds: Mapping[str, type | tuple[type, ...]], what: str, remedy: str) -> dict[str, Any]:
    """An object that has these keys, each a value of its type; EdgeError names those that it has not, or others.

    A bool is no number here.
    """
    if not isinstance(found, dict):
        raise EdgeError(f"found {_kind(found)} as {what}, expected an object with {', '.join(kinds)}: {remedy}")
    missing = [key for key in kinds if key not in found]
    if missing:
        raise EdgeError(f"found {what} without {', '.join(missing)}, expected a whole one: {remedy}")
    for key, kind in kinds.items():
        expected = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(found[key], expected) or (isinstance(found[key], bool) and bool not in expected):
            names = " or ".join("null" if one is type(None) else one.__name__ for one in expected)
            raise EdgeError(f"found {what} whose {key} is {_kind(found[key])}, expected {names}: {remedy}")
    return found


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
