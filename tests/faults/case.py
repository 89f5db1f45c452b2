"""What a case of the campaign is, and how its end is judged."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from support.once import working_in

import anomalib_nagl

ANSWER, REFUSED, EITHER = "answer", "refused", "either"
ANSWERED, WRONG = "answered", "wrong"
SECONDS = 90  # after which an entry point counts as hung
PACKAGE = str(Path(anomalib_nagl.__file__).parent)
# Statuses with which a command refuses: a wrong call, or work that is done but for items that failed.
REFUSING = (2, 3)


@dataclass(frozen=True)
class World:
    """What all cases share and none may change, and an empty folder for the case in hand."""

    model: Path  # model.xml of an export
    bank: Path  # a bank of a few numbers, without a model
    references: Path  # a folder of references
    checkpoint: Path  # of a training
    head: Path  # its weights alone
    room: Path

    def copy(self, path: Path) -> Path:
        """A file, or the folder of the export, in the room; the path of the copy."""
        if path == self.model:
            return Path(shutil.copytree(path.parent, self.room / "export", dirs_exist_ok=True)) / path.name
        to = self.room / path.name
        return Path(shutil.copytree(path, to) if path.is_dir() else shutil.copy(path, to))


@dataclass(frozen=True)
class Case:
    """An input, the entry point it is given to, and what is expected of that.

    ``make`` lays the input out in the room and returns it; ``enter`` hands it over and returns an answer. An answer of
    a case that has ``like`` must be the one that this gives.
    """

    kind: str
    name: str
    make: Callable[[World], Any]
    enter: Callable[[World, Any], Any]
    expected: str = REFUSED
    like: Callable[[World], Any] | None = field(default=None, repr=False)
    quick: bool = True  # whether it belongs to the part that runs with the tests

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


class Verdict(NamedTuple):
    """How a case ended: answered, refused or wrong, and in which words."""

    outcome: str
    words: str


class Refused(Exception):
    """A command that ended as one does that was given what will not do."""


class Hung(BaseException):
    """An entry point that did not return in time. No ``except Exception`` on the way may swallow it."""


def judge(case: Case, world: World) -> Verdict:
    """Run a case in its room, and compare how it ended with what is expected."""
    with working_in(world.room):
        given = case.make(world)
        try:
            with _within(SECONDS):
                found = case.enter(world, given)
        except Refused as refusal:
            return _expect(case, REFUSED, str(refusal))
        except Hung:
            return Verdict(WRONG, f"no end after {SECONDS} s")
        except (Exception, SystemExit) as error:
            foreign = _foreign(error)
            return Verdict(WRONG, foreign) if foreign else _expect(case, REFUSED, str(error))
        if case.like is not None and not same(found, case.like(world)):
            return Verdict(WRONG, "another answer than that of the sound input, and no word about it")
    return _expect(case, ANSWERED, repr(found)[:200])


def _expect(case: Case, outcome: str, words: str) -> Verdict:
    wanted = {ANSWER: ANSWERED, REFUSED: REFUSED, EITHER: outcome}[case.expected]
    return Verdict(outcome if outcome == wanted else WRONG, words)


def _foreign(error: BaseException) -> str:
    """What is wrong with an error that people would see; empty for one sentence of ours that says what is expected."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    said = f"{type(error).__name__} at {place}: {str(error)[:160]}"
    ours = any(frame.filename.startswith(PACKAGE) for frame in frames[-2:])
    if not isinstance(error, ValueError) or not ours or "expected" not in str(error):
        return f"foreign {said}"
    return f"more than a line: {said!r}" if "\n" in str(error).strip() else ""


def same(found: Any, other: Any) -> bool:
    """Whether two answers are equal, NaN being equal to itself."""
    import numpy as np

    if isinstance(found, dict):
        return isinstance(other, dict) and found.keys() == other.keys() and all(same(found[k], other[k]) for k in found)
    if isinstance(found, (list, tuple)):
        return len(found) == len(other) and all(map(same, found, other))
    if isinstance(found, np.ndarray):
        return found.shape == other.shape and np.array_equal(found, other, equal_nan=found.dtype.kind == "f")
    return bool(found == other)


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raise Hung in this thread, the main one, after some seconds; where the system has such an alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments: object) -> str:
    """Run ``anomalib-nagl ARGUMENTS`` in this process; what it printed, or Refused with what it said on stderr."""
    from anomalib_nagl import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = cli.run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        except SystemExit as stop:  # of argparse
            status = stop.code
    said = err.getvalue().strip() or out.getvalue().strip()  # tables of problems are no errors
    if "Traceback" in said or status not in (0, *REFUSING) or (status == 2 and not err.getvalue()):
        raise AssertionError(f"status {status}: {said[-200:]!r}")
    if status in REFUSING:
        raise Refused(said[-300:])
    return out.getvalue()
