"""``anomalib-nagl edge watch``: score files as they arrive in a folder, until a signal ends it."""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from anomalib_nagl.bank.verdicts import REVIEW, Rules
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.arrivals import Arrivals
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.edge.watching import FAILED, Scored, Watcher, moves_of, watch
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import EdgeError, printable
from anomalib_nagl.io.prediction_log import PredictionLog
from anomalib_nagl.io.prediction_text import line

COMMANDS = (("watch", "score files as they arrive in a folder"),)
MEGABYTE = 1_000_000
_WORDS = re.compile(r"\{(path|verdict|score)\}")


def describe(parsers: Sequence[Parser]) -> None:
    """Give the parser of ``COMMANDS`` its arguments."""
    (parser,) = parsers
    parser.set_defaults(run=run)
    parser.epilog = (
        "What follows -- is a program that is started after each file, with {path}, {verdict} and {score} in its "
        "arguments replaced; no shell reads them."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to watch, with what is below it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables and heartbeat")
    parser.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
    parser.add_argument(
        "--move", nargs=2, action="append", default=[], metavar=("VERDICT", "DIR"),
        help="move files of a verdict (good, defective, look-again, failed); others stay; may be repeated",
    )  # fmt: skip
    parser.add_argument("--move-by-verdict", type=Path, metavar="DIR", help="move every file to DIR/VERDICT")
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="another threshold of scores than the model's")
    parser.add_argument("--review", type=float, default=REVIEW, metavar="WIDTH", help="look again this near to it")
    parser.add_argument("--min-area", type=float, default=0.0, metavar="AREA", help="as of edge predict")
    parser.add_argument("--pixel-size", type=float, metavar="MM", help="width of a pixel in mm")
    for name, default, what in (
        ("still", 1.0, "a file is whole when it has not changed for so long"),
        ("poll", 0.5, "time between two looks into the folder"),
        ("heartbeat", 5.0, "time between two heartbeats"),
        ("program-timeout", 60.0, "time that the program behind -- may take"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, metavar="SECONDS", help=f"{what}; {default:g}")
    parser.add_argument(
        "--rotate", type=float, default=64.0, metavar="MB", help="begin new tables when they are so large; 64"
    )
    parser.add_argument("--keep", type=int, default=0, metavar="COUNT", help="old tables to keep; all if left out")
    parser.add_argument("--once", action="store_true", help="score what is there, and end")


def split_program(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments of ours and, of ``watch``, the program behind ``--``."""
    given = list(arguments)
    if given[:1] != ["watch"] or "--" not in given:
        return given, []
    place = given.index("--")
    return given[:place], given[place + 1 :]


def run(options: argparse.Namespace) -> int:
    """Watch a folder until Ctrl-C or SIGTERM, its ordinary end; returns the exit status."""
    _check(options)
    moves = moves_of([(name, Path(path)) for name, path in options.move], options.move_by_verdict)
    detector = NaglEdge(options.model, bank=options.bank)
    arrivals = Arrivals(options.folder, options.still, [options.out, *moves.values()])
    with _until_signal() as stop, PredictionLog(options.out, int(options.rotate * MEGABYTE), options.keep) as log:
        rules = partial(_rules, options)
        rules(detector)
        then = partial(_after, options.program, options.program_timeout)
        watcher = Watcher(detector, arrivals, log, rules, moves, then, _tell)
        print(printable(f"watching {options.folder}: {len(log.done)} files are known; Ctrl-C ends it"), flush=True)
        if options.once:
            arrivals.whole()
            stop.wait(options.still)
            watcher.step(arrivals.whole(), stop.is_set, lambda: None)
            log.keep_done()
            watcher.beat("stopped")
        else:
            watch(watcher, stop.is_set, stop.wait, options.poll, options.heartbeat)
    counts = watcher.pulse.facts()
    failed = f", {counts[FAILED]} failed" if counts[FAILED] else ""
    print(printable(f"{counts['images']} images scored{failed}: {options.out}"))
    return exit_codes.DONE


def _check(options: argparse.Namespace) -> None:
    """Raise EdgeError for what cannot be watched, or a number that cannot be."""
    if not options.folder.is_dir():
        raise EdgeError(f"found no folder at {options.folder}, expected the one to watch: make it, or check the path")
    known = ("good", "defective", "look-again", FAILED)
    for verdict, _ in options.move:
        if verdict not in known:
            raise EdgeError(f"found --move {verdict}, expected one of {', '.join(known)} and a folder")
    for name in ("still", "poll", "heartbeat", "program_timeout", "rotate"):
        if not 0 < getattr(options, name) < 1e9:
            found = getattr(options, name)
            raise EdgeError(f"found --{name.replace('_', '-')} {found}, expected a number above 0")
    if options.keep < 0:
        raise EdgeError(f"found --keep {options.keep}, expected 0 or more")


def _rules(options: argparse.Namespace, detector: NaglEdge) -> Rules:
    """What decides a verdict with the bank of this moment; EdgeError for a number that cannot be one."""
    threshold = detector.score_threshold if options.threshold is None else options.threshold
    rules = Rules(threshold, detector.map_threshold, options.review, options.min_area, options.pixel_size)
    return rules.check()


def _after(program: Sequence[str], timeout: float, scored: Scored) -> None:
    """Tell of a file, and start the program; one that fails is told of and stops nothing."""
    print(line(scored.row), flush=True)
    if not program:
        return
    score = "" if scored.row.score is None else f"{scored.row.score:.6f}"
    words = {"path": str(scored.path), "verdict": scored.row.verdict or FAILED, "score": score}
    # In one pass: the name of a file may itself look like one of these.
    command = [_WORDS.sub(lambda found: words[found[1]], word) for word in program]
    try:
        # In a session of its own: Ctrl-C is ours, and the program comes to its end.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=timeout, start_new_session=True, check=False)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _tell(f"found no way to run {command[0]} for {scored.path}: {error}")
    else:
        if done.returncode:
            _tell(f"found {command[0]} to end with {done.returncode} for {scored.path}, expected 0")


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what is begun is ended; the second one interrupts as ever."""
    stop = threading.Event()
    usual: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def hear(number: int, frame: FrameType | None) -> None:
        stop.set()
        for one, before in usual.items():
            signal.signal(one, before)

    if threading.current_thread() is threading.main_thread():
        usual = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, before in usual.items():
            signal.signal(one, before)


def _tell(words: str) -> None:
    print(printable(f"anomalib-nagl edge watch: {words}"), file=sys.stderr, flush=True)
