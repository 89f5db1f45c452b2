"""Public names with their signatures, and options of our commands, as text.

``PYTHONPATH=tests python -m support.public_names`` renews ``tests/public_names.txt``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import anomalib_nagl
from support.documents import call

SNAPSHOT = Path(__file__).parents[1] / "public_names.txt"
COMMANDS = (
    ("app",),
    ("edge", "predict"), ("edge", "list"), ("edge", "add-defect"), ("edge", "add-normal"), ("edge", "check"),
    ("edge", "remove"),
    ("edge", "rename"), ("edge", "off"), ("edge", "on"), ("edge", "calibrate"),
    ("edge", "region"), ("edge", "undo"), ("edge", "history"),
    ("edge", "bake"), ("edge", "migrate"), ("edge", "watch"), ("edge", "merge"),
    ("edge", "diff"), ("evaluate",), ("inspect",), ("references", "check"),
)  # fmt: skip


def lines() -> Iterator[str]:
    """One line for each public name, each public member of it, and each command."""
    for name in sorted(anomalib_nagl.__all__):
        value = getattr(anomalib_nagl, name)
        yield name + _signature(value)
        if isinstance(value, type):
            ours = [base for base in value.__mro__ if base.__module__.startswith("anomalib_nagl")]
            for member in sorted({name for base in ours for name in vars(base)}):
                if not member.startswith("_") and not _overrides(value, member):
                    yield f"{name}.{member}{_signature(inspect.getattr_static(value, member))}"
    for command in COMMANDS:
        status, text = call("anomalib-nagl", *command, "--help")
        assert status == 0, command
        yield " ".join(("anomalib-nagl", *command, *sorted(set(re.findall(r"--[a-z][\w.-]*\w", text)))))


def _overrides(value: type, member: str) -> bool:
    """Whether a member has its name from a class that is not ours."""
    return any(hasattr(base, member) for base in value.__mro__[1:] if not base.__module__.startswith("anomalib_nagl"))


def _signature(value: object) -> str:
    value = getattr(value, "__func__", value)  # of class methods and static methods
    if isinstance(value, property) or not callable(value) or value is anomalib_nagl.EdgeError:
        return ""  # an exception has no signature of its own
    # How a forward reference is printed differs from one Python to the next.
    return re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", str(inspect.signature(value)))


def text() -> str:
    """The whole snapshot."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(text(), encoding="utf-8")
