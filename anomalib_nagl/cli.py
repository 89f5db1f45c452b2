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
from types import FrameType
from typing import NamedTuple

import anomalib_nagl
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.distributions import tell_conflict
from anomalib_nagl.io.error_sentences import sentence_of
from anomalib_nagl.io.errors import suggest
from anomalib_nagl.io.shipped_configs import with_shipped

FULL, BOX = "anomalib-nagl", "anomalib-nagl-edge"
# Modules by which a distribution is known to be there with what it needs.
MODULES = {FULL: ("anomalib", "torch"), BOX: ("numpy", "openvino")}
# Of anomalib, to tell a misspelt command of ours from one of those; anomalib itself decides what it takes.
ANOMALIB_COMMANDS = ("train", "test", "predict", "export", "fit", "validate", "benchmark", "install")
VERBOSE = "--verbose"  # anywhere in a command line: errors keep their traceback, and nothing is left out


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
    "app": Command(
        "open a page on an exported model: see scores, draw defects, save what they teach, without torch",
        "anomalib_nagl.commands.edge_app:main",
        BOX,
    ),
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

    See ``io.exit_codes``. An error of what was given is a line on stderr. So is one that nobody foresaw, unless
    ``--verbose`` or the variable ``ANOMALIB_NAGL_TRACEBACK`` asks for all of it, or it ended a command of anomalib.
    """
    name = next(iter(arguments), "--help")
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments  # what follows is another program's
    verbose = VERBOSE in ours and name != "install"  # anomalib's command has an option of this name
    if verbose:
        arguments = [*(one for one in ours if one != VERBOSE), *arguments[len(ours) :]]
        name = next(iter(arguments), "--help")
    verbose = verbose or bool(os.environ.get(exit_codes.TRACEBACK))
    try:
        if name in ("-h", "--help"):
            return _help()
        if name == "--version":
            print(f"anomalib-nagl {anomalib_nagl.__version__}")
            return 0
        if name in COMMANDS:
            _quiet(verbose)
            return load(name)(with_shipped(arguments[1:], name))
        _check_anomalib(name)
        return _anomalib(with_shipped(arguments), verbose)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except Exception as error:
        return _tell(error, name, verbose)


def _tell(error: Exception, name: str, verbose: bool) -> int:
    """Say what went wrong; returns the exit status."""
    ours = name in COMMANDS
    prefix = f"anomalib-nagl {name}:" if name in (*COMMANDS, *ANOMALIB_COMMANDS) else "anomalib-nagl:"
    told = str(error) if ours and isinstance(error, ValueError | OSError) else sentence_of(error)
    if not told and isinstance(error, FileNotFoundError):
        told = str(error)
    if verbose or not (told or ours):
        traceback.print_exception(error)
    if told:
        print(f"{prefix} {told}", file=sys.stderr)
        return exit_codes.WRONG_CALL
    words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    hint = "; --verbose shows where" if ours and not verbose else ""
    print(f"{prefix} an unexpected error, {words}{hint}", file=sys.stderr)
    return exit_codes.UNEXPECTED


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
    """Print our commands, as far as what they need is installed, and name anomalib's."""
    here = {name: command for name, command in COMMANDS.items() if not _missing(command.needs)}
    print("usage: anomalib-nagl [--version] [--verbose] COMMAND ...\n")
    print("Finds defects with a few good and a few defective pictures.\n\nCommands, each with a --help of its own:\n")
    for name, command in here.items():
        print(f"  {name:<12}{command.help}")
    print(
        "\n  --version   print the version and exit\n  --verbose   show whole tracebacks and every line of libraries\n"
    )
    if _missing(FULL):
        left = [name for name in COMMANDS if name not in here]
        print(f"{', '.join([*left, *ANOMALIB_COMMANDS])} need {FULL}, in an environment without {BOX}.")
        return 0
    print(f"anomalib's commands: {', '.join(ANOMALIB_COMMANDS)}. `anomalib-nagl train --help` lists their options.")
    print("--config takes a file, or the name of one that comes along: own_parts, references, quickstart, demo.")
    return 0


def _quiet(verbose: bool) -> None:
    """Leave out what libraries warn of each time they are imported, unless ``verbose``; a box has none of them."""
    if not verbose and _is_there("anomalib_nagl.commands.terminal"):
        from anomalib_nagl.commands import terminal

        terminal.quiet_warnings()


def _anomalib(arguments: Sequence[str], verbose: bool = False) -> int:
    """Run anomalib's command line, with what libraries say left out unless ``verbose``."""
    from anomalib_nagl.commands import terminal  # boxes are without it

    _quiet(verbose)
    anomalib_nagl.register()
    # Imported late: registration must come before anything of anomalib parses a name.
    from anomalib.cli import cli as anomalib_cli

    if not verbose:
        anomalib_cli.configure_logger = terminal.configure_logger  # type: ignore[attr-defined]
    sys.argv[1:] = arguments  # where it looks
    anomalib_cli.main()
    return 0


if __name__ == "__main__":
    main()
