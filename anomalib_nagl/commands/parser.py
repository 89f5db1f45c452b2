"""The dialect of our command lines: an option is spelt out, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from anomalib_nagl.io.errors import suggest


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ValueError instead of ending the program, and knows what was nearly meant.

    ``arguments`` are those of ``argparse.ArgumentParser``; options cannot be abbreviated.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)
        self._commands: dict[str, Parser] = {}
        self._given: list[str] = []

    def add_commands(self, *described: tuple[str, str]) -> list[Parser]:
        """Add commands, each a name and a line of help, one of which has to be given; returns their parsers."""
        group = self.add_subparsers(required=True, metavar="COMMAND")
        self._commands = group.choices
        return [group.add_parser(name, help=line, description=_sentence(line)) for name, line in described]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but let no argument be left over: the parser of a command knows what it takes."""
        self._given = list(args or [])
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"found {' '.join(rest)}, expected no more arguments")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Raise ValueError about a command or an option that there is not, or with argparse's own message."""
        if self._commands:
            self._refuse("command", [word for word in self._given[:1] if word[:1] != "-"], self._commands)
            if not self._given:
                raise ValueError(f"found no command, expected one of {', '.join(self._commands)}")
        options = [word.partition("=")[0] for word in self._given if word.startswith("--") and word != "--"]
        self._refuse("option", options, [name for name in self._option_string_actions if name.startswith("--")])
        raise ValueError(f"{message}; see {self.prog} --help")

    def _refuse(self, kind: str, given: Sequence[str], known: Any) -> None:
        for name in given:
            if name not in known:
                raise ValueError(f"found no {kind} {name!r}, expected one of {', '.join(known)}{suggest(name, known)}")


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."
