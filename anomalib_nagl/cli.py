"""``anomalib-nagl``: our own commands; everything else goes on to anomalib's command line, with the plugin in it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import anomalib_nagl
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.distributions import tell_conflict
from anomalib_nagl.io.errors import suggest

FULL, BOX = "anomalib-nagl", "anomalib-nagl-edge"
# Modules by which a distribution is known to be there with what it needs.
MODULES = {FULL: ("anomalib", "torch"), BOX: ("numpy", "openvino")}
# Of anomalib, to tell a misspelt command of ours from one of those; anomalib itself decides what it takes.
ANOMALIB_COMMANDS = ("train", "test", "predict", "export", "fit", "validate", "benchmark", "install")


class Command(NamedTuple):
    """A command of ours: a line of help, ``module:function``, and the distribution that has what it needs.

    The function takes the arguments and returns the exit status, see ``io.exit_codes``. ValueError and OSError are told
    to people.
    """

    help: str
    target: str
    needs: str


# Each is imported when it is called: some must run where torch is not installed.
COMMANDS = {
    "edge": Command(
        "predict with an exported model and change its references, without torch",
        "anomalib_nagl.commands.edge:main",
        BOX,
    ),
    "evaluate": Command(
        "measure models on categories they were not trained on", "anomalib_nagl.commands.evaluate:main", FULL
    ),
    "inspect": Command(
        "say of each image whether it is good, defective or to be looked at again",
        "anomalib_nagl.commands.inspect:main",
        BOX,
    ),
    "references": Command(
        "check a folder of references before it is used", "anomalib_nagl.commands.references:main", FULL
    ),
}


def main() -> None:
    """Run the command line and end the program with its exit status.

    That is 130 after Ctrl-C, and 143 after SIGTERM, which ends a program in the same good order: what is written in one
    step is written or not, and the terminal is given back. Lightning ends an interrupted run with 1.
    """
    tell_conflict()
    with _signals() as received:
        try:
            status: object = run(sys.argv[1:])
        except SystemExit as stop:
            status = stop.code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = exit_codes.INTERRUPTED
    sys.exit(128 + received[0] if received and status else status)  # type: ignore[arg-type]  # a status, or words


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Have Ctrl-C and SIGTERM interrupt this thread; yields the numbers of those that came.

    Not where the parent of this program ignores them, nor in another thread, where none can be caught.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    usual = (signal.default_int_handler, signal.SIG_DFL)
    caught = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    caught = {one: before for one, before in caught.items() if before in usual}
    if threading.current_thread() is not threading.main_thread():
        caught = {}
    for one in caught:
        signal.signal(one, interrupt)
    try:
        yield received
    finally:
        for one, before in caught.items():
            signal.signal(one, before)


def run(arguments: Sequence[str]) -> int:
    """Run one of our commands, or anomalib's command line with the plugin registered; returns the exit status.

    See ``io.exit_codes``. An error of what was given is a line on stderr. So is one that nobody foresaw, unless the
    variable ``ANOMALIB_NAGL_TRACEBACK`` asks for all of it, or it ended a command of anomalib, perhaps after hours.
    """
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help"):
            return _help()
        if name in COMMANDS:
            return load(name)(arguments[1:])
        _check_anomalib(name)
        return _anomalib(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except Exception as error:
        return _tell(error, name)


def _tell(error: Exception, name: str) -> int:
    """Say what went wrong; returns the exit status."""
    ours = name in COMMANDS
    prefix = f"anomalib-nagl{f' {name}' if ours else ''}:"
    expected = isinstance(error, ValueError | OSError) and (ours or _is_sentence(error))
    asked = bool(os.environ.get(exit_codes.TRACEBACK))
    if asked or not (expected or ours):
        traceback.print_exception(error)
    if expected:
        print(f"{prefix} {error}", file=sys.stderr)
        return exit_codes.WRONG_CALL
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hint = "" if asked or not ours else f"; {exit_codes.TRACEBACK}=1 shows where"
    print(f"{prefix} an unexpected error, {words}{hint}", file=sys.stderr)
    return exit_codes.UNEXPECTED


def _is_sentence(error: Exception) -> bool:
    """Whether it was raised by this package, of what was given: anomalib's own commands raise others of these types."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)


def load(name: str) -> Callable[[Sequence[str]], int]:
    """Import a command; ValueError where its distribution is not installed."""
    module, function = COMMANDS[name].target.split(":")
    _check_installed(name, COMMANDS[name].needs, module)
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command


def _check_installed(what: str, distribution: str, *modules: str) -> None:
    missing = _missing(distribution, *modules)
    if missing:
        apart = f", in an environment without {BOX}" if distribution == FULL else ""
        raise ValueError(
            f"found no {missing[0]} here, expected it to be installed: {what!r} needs {distribution}: "
            f"pip install {distribution}{apart}"
        )


def _missing(distribution: str, *modules: str) -> list[str]:
    """Modules that cannot be found of those that a distribution brings, and of others."""
    return [module for module in (*MODULES[distribution], *modules) if not _is_there(module)]


def _is_there(module: str) -> bool:
    """Whether a module can be found. It is not imported: what goes wrong in it is for all to see."""
    try:
        return find_spec(module) is not None
    except ImportError:  # a finder that refuses
        return False


def _check_anomalib(name: str) -> None:
    """Raise ValueError unless a command may be anomalib's: not where that is missing, nor nearly one of ours."""
    known = (*COMMANDS, *ANOMALIB_COMMANDS)
    misspelt = get_close_matches(name, known, 1, 0.75)[:1]
    if name not in ANOMALIB_COMMANDS and (_missing(FULL) or (misspelt and misspelt[0] in COMMANDS)):
        raise ValueError(
            f"found no command {name!r}, expected one of {', '.join(COMMANDS)}, or with {FULL} one of anomalib's "
            f"({', '.join(ANOMALIB_COMMANDS)}){suggest(name, known)}"
        )
    _check_installed(name, FULL)


def _help() -> int:
    """Print our commands, then anomalib's help where it is installed."""
    print("usage: anomalib-nagl COMMAND ...\n\nCommands of anomalib-nagl, each with a --help of its own:\n")
    for name, command in COMMANDS.items():
        missing = _missing(command.needs)
        print(f"  {name:<12}{command.help}{f' (needs {command.needs})' if missing else ''}")
    print(f"\nEverything else goes to anomalib's command line: {', '.join(ANOMALIB_COMMANDS)}.")
    if _missing(FULL):
        print(f"It is not installed here: pip install {FULL}, in an environment without {BOX}.")
        return 0
    print("\nanomalib's own help:\n", flush=True)
    return _anomalib(["--help"])


def _anomalib(arguments: Sequence[str]) -> int:
    anomalib_nagl.register()
    # Imported late: registration must come before anything of anomalib parses a name.
    from anomalib.cli.cli import main as anomalib_main

    sys.argv[1:] = arguments  # where it looks
    anomalib_main()
    return 0


if __name__ == "__main__":
    main()
