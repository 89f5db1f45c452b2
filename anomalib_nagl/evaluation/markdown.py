"""Numbers and tables as markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anomalib_nagl.evaluation.summary import Entry

EMPTY = "\N{EN DASH}"


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number rounded to some digits after the point, ``EMPTY`` for NaN; what rounds to zero has no sign."""
    if math.isnan(value):
        return EMPTY
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def show(entry: Entry, signed: bool = False, expected: int = 0) -> str:
    """An entry as ``mean ± sd``, followed by (sd over categories) and, when some are missing, [values of expected]."""
    text = number(entry.mean, signed=signed)
    if text == EMPTY:
        return text
    if not math.isnan(entry.spread):
        text += f" ± {number(entry.spread)}"
    if not math.isnan(entry.over_categories):
        text += f" ({number(entry.over_categories)})"
    return text + (f" [{entry.seeds} of {expected}]" if 0 < entry.seeds < expected else "")


def table(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first ``left`` columns are aligned to the left, the others to the right."""
    rules = [":--" if i < left else "--:" for i in range(len(head))]
    lines = [head, rules, *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in lines)


def bold_best(columns: Sequence[Sequence[float]], texts: Sequence[list[str]]) -> None:
    """Make the largest number of every column bold, in place, when there are two or more to compare.

    ``columns`` and ``texts`` are (rows, columns): the numbers and how they are shown. Those that look equal to the best
    are bold too.
    """
    for j in range(len(columns[0]) if columns else 0):
        shown = [number(row[j]) for row in columns]
        known = [float(text) for text in shown if text != EMPTY]
        if len(known) > 1:
            for text, row in zip(shown, texts, strict=True):
                if text != EMPTY and float(text) == max(known):
                    row[j] = f"**{row[j]}**"
