"""Configurations that come with the package, by name: ``own_parts`` for ``configs/own_parts.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parents[1]
# In an installation beside the modules, in a clone beside the package.
_PLACES = (_HERE / "configs", _HERE.parent / "configs")
_OPTIONS = ("--config", "-c")


def find_config(name: str, folder: str = "") -> Path | None:
    """The shipped file of a name, with or without its ending, first in a folder of them; None if there is none."""
    wanted = name if name.endswith(".yaml") else f"{name}.yaml"
    for place in _PLACES:
        for path in (place / folder / wanted, place / wanted):
            if (
                (place / "own_parts.yaml").is_file()
                and path.is_file()
                and path.resolve().is_relative_to(place.resolve())
            ):
                return path
    return None


def with_shipped(arguments: Sequence[str], folder: str = "") -> list[str]:
    """Arguments whose ``--config NAME`` has the shipped file in the place of a name that is no file here."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if option == "--config" and equals:
            found.append(f"--config={_file(value, folder)}")
        else:
            found.append(_file(argument, folder) if before in _OPTIONS else argument)
    return found


def _file(name: str, folder: str) -> str:
    shipped = None if Path(name).exists() else find_config(name, folder)
    return name if shipped is None else str(shipped)
