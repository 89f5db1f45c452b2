"""Errors that were meant for people, found again below what programs have wrapped around them."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_PACKAGE = str(Path(__file__).parents[1])
_TOLD = (ValueError, OSError, RuntimeError)  # what our code raises for people to read
_IN_WORKER = re.compile(r"Caught \w+ in .*?Original Traceback", re.DOTALL)


def sentence_of(error: BaseException) -> str | None:
    """The message of an error that our own code has raised on purpose, in one line; None for any other.

    It may be wrapped: by an error that it caused, by jsonargparse, which tries one type of a setting after the other,
    or by a process that reads images.
    """
    for one in _wrapped(error):
        message = str(one).strip()
        if isinstance(one, _TOLD) and message:
            if _raised_by_us(one.__traceback__):
                return " ".join(message.split())
            if _IN_WORKER.match(message) and _PACKAGE in message:
                return " ".join(message.splitlines()[-1].partition(": ")[2].split()) or None
    return None


def _wrapped(error: BaseException | None, seen: tuple[int, ...] = ()) -> Iterator[BaseException]:
    """An error, the errors that it was made of, and those that led to it."""
    while error is not None and id(error) not in seen:
        seen = (*seen, id(error))
        yield error
        trace = error.__traceback__
        while trace is not None:
            # The only place where jsonargparse keeps what its attempts have raised.
            if trace.tb_frame.f_code.co_name == "raise_union_unexpected_value":
                for attempt in trace.tb_frame.f_locals.get("exceptions", ()):
                    yield from _wrapped(attempt, seen)
            trace = trace.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether an error comes from a raise statement of this package; mistakes in it keep their traceback."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        return False
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return line.lstrip().startswith("raise")
