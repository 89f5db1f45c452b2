"""Arrays, names and numbers that are given where an image, a mask, a name or a threshold belongs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults import entries
from faults.case import ANSWER, EITHER, REFUSED, Case, World


class Raising:
    """Says that it is an array, and raises."""

    def __array__(self, *_: object, **__: object) -> None:
        raise RuntimeError("no array")


def _with(value: float) -> np.ndarray:
    array = np.full((9, 9, 3), 0.5, np.float32)
    array[4, 4, 1] = value
    return array


IMAGES: dict[str, tuple[Any, str]] = {
    "8 bits": (np.zeros((9, 9, 3), np.uint8), ANSWER),
    "floats": (_with(1.0), ANSWER),
    "16 bits": (np.zeros((9, 9, 3), np.uint16), EITHER),
    "halves": (_with(1.0).astype(np.float16), EITHER),
    "doubles": (_with(1.0).astype(np.float64), EITHER),
    "grey": (np.zeros((9, 9), np.uint8), EITHER),
    "four channels": (np.zeros((9, 9, 4), np.uint8), EITHER),
    "turned around": (np.zeros((9, 9, 3), np.uint8)[::-1, ::-1], ANSWER),
    "one pixel": (np.zeros((1, 1, 3), np.uint8), EITHER),
    "one row of 20,000": (np.zeros((1, 20_000, 3), np.uint8), EITHER),
    "NaN": (_with(np.nan), REFUSED),
    "infinity": (_with(np.inf), REFUSED),
    "200 as a float": (_with(200), REFUSED),
    "negative": (_with(-1), REFUSED),
    "no pixel": (np.zeros((0, 9, 3), np.uint8), REFUSED),
    "five dimensions": (np.zeros((1, 1, 9, 9, 3), np.uint8), REFUSED),
    "channels first": (np.zeros((3, 9, 9), np.uint8), REFUSED),
    "text": (np.full((9, 9, 3), "a"), REFUSED),
    "objects": (np.full((9, 9, 3), None), REFUSED),
    "complex": (np.zeros((9, 9, 3), np.complex64), REFUSED),
    "dates": (np.zeros((9, 9, 3), "datetime64[s]"), REFUSED),
    "bool": (np.zeros((9, 9, 3), bool), EITHER),
    "a ragged list": ([[1], [1, 2]], REFUSED),
    "a dict": ({"a": 1}, REFUSED),
    "what raises": (Raising(), REFUSED),
}
MASKS: dict[str, tuple[Any, str]] = {
    "ones": (np.ones((9, 9)), ANSWER),
    "bool": (np.ones((9, 9), bool), ANSWER),
    "zeros": (np.zeros((9, 9)), REFUSED),
    "all NaN": (np.full((9, 9), np.nan), REFUSED),
    "one NaN": (np.where(np.eye(9), np.nan, 1.0), REFUSED),
    "infinity": (np.full((9, 9), np.inf), REFUSED),
    "one minus infinity": (np.where(np.eye(9), -np.inf, 1.0), REFUSED),
    "another size": (np.ones((9, 8)), REFUSED),
    "one dimension": (np.ones(81), REFUSED),
    "text": (np.full((9, 9), "a"), REFUSED),
    "objects": (np.full((9, 9), None), REFUSED),
    "a ragged list": ([[1], [1, 2]], REFUSED),
    "what raises": (Raising(), REFUSED),
}
LONG = "n" * 100_000
WORDS: dict[str, tuple[Any, str]] = {
    "letters": ("dent", ANSWER), "other letters": ("Ärger 缺陷 \U0001f600", ANSWER), "two lines": ("a\nb", REFUSED),
    "empty": ("", EITHER), "100,000 letters": (LONG, REFUSED), "half a character": ("a\udcff", REFUSED),
    "a zero byte": ("a\0b", REFUSED), "a number": (5, REFUSED), "bytes": (b"a", REFUSED), "a list": (["a"], REFUSED),
    "a path": (Path("a"), REFUSED), "NaN": (float("nan"), REFUSED), "a terminal's code": ("\x1b[2J", REFUSED),
    "markup": ("[/]", ANSWER), "SQL": ("'; DROP TABLE reference; --", ANSWER),
}  # fmt: skip
THRESHOLDS: dict[str, tuple[Any, str]] = {
    "a number": (0.5, ANSWER), "NaN": (float("nan"), REFUSED), "infinity": (float("inf"), REFUSED),
    "minus infinity": (-float("inf"), REFUSED), "text": ("abc", REFUSED), "a list": ([0.1, 0.2], REFUSED),
    "complex": (1j, REFUSED), "1e300": (1e300, REFUSED),
}  # fmt: skip


def given(value: Any) -> Callable[[World], Any]:
    return lambda _: value


def cases() -> Iterator[Case]:
    for what, (value, expected) in IMAGES.items():
        yield Case("arrays", f"predict {what}", given(value), entries.predict, expected)
        if expected == REFUSED:
            yield Case("arrays", f"normal image of {what}", given(value), entries.teach_normal, expected)
    for what, (value, expected) in MASKS.items():
        yield Case("arrays", f"mask of {what}", given(value), entries.teach_mask, expected)
        if isinstance(value, np.ndarray) and value.dtype.kind in "bf":
            yield Case("arrays", f"mask for torch of {what}", given(value), entries.torch_mask, expected)
    for key in ("name", "defect_type"):
        for what, (value, expected) in WORDS.items():
            yield Case("arrays", f"{key} of {what}", given({key: value}), entries.teach_named, expected)
    for place in (0, 1):
        for what, (value, expected) in THRESHOLDS.items():
            both = (value, 0.5) if place == 0 else (0.5, value)
            name = f"threshold of {('images', 'pixels')[place]}: {what}"
            yield Case("arrays", name, given(both), entries.set_thresholds, expected)
