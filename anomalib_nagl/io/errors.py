"""What goes wrong with what people hand over, in words."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgeError(ValueError):
    """A model, a reference pack, an image or a mask that will not do; the message says what to do instead."""


class WriteError(EdgeError, OSError):
    """A place where nothing can be written; the message says which, and why."""


def printable(text: str) -> str:
    """Text that any terminal takes: names of files need not be of one that it knows."""
    return text.encode("utf-8", "backslashreplace").decode()


def suggest(name: str, known: Iterable[str]) -> str:
    """The known name that a misspelt one resembles, as words to append to an error; empty without one."""
    near = get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
