"""Scoring files as they arrive in a folder, for months: one after the other, whatever becomes of any of them."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomalib_nagl.bank.drift import Drift, normal_patches, own_range, similarity
from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.edge.arrivals import Arrival, Arrivals
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.io.arrays import read_image
from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.io.json_values import parse_json
from anomalib_nagl.io.prediction_log import Done, PredictionLog
from anomalib_nagl.io.prediction_table import VERDICTS, PredictionRow, failed_row

FAILED = "failed"  # beside the verdicts, what a file can be moved by
RECENT = 1000  # images of which the 95th percentile of the time is told
WINDOW = 60.0  # seconds of which the rate is told
HEARTBEAT, DRIFT = "heartbeat.json", "drift.json"
Tell = Callable[[str], None]
RulesOf = Callable[[NaglEdge], Rules]


class Scored(NamedTuple):
    """A file that was scored: its row, and where it lies now."""

    row: PredictionRow
    path: Path


class Pulse:
    """What the heartbeat says of the work of a process."""

    def __init__(self) -> None:
        self.started = now()
        self.counts = dict.fromkeys((*VERDICTS, FAILED), 0)
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._ends: deque[float] = deque(maxlen=100_000)
        self._begun = time.monotonic()

    def count(self, row: PredictionRow, seconds: float) -> None:
        """An image took so long."""
        self.counts[FAILED if row.error else row.verdict] += 1
        self._seconds.append(seconds)
        self._ends.append(time.monotonic())

    def facts(self) -> dict[str, Any]:
        """Counts of verdicts, images a minute, and the 95th percentile of the seconds that an image took."""
        moment = time.monotonic()
        while self._ends and self._ends[0] < moment - WINDOW:
            self._ends.popleft()
        window = max(min(WINDOW, moment - self._begun), 1.0)
        slow = round(float(np.quantile(list(self._seconds), 0.95)), 4) if self._seconds else None
        counts = {name or "no verdict": number for name, number in self.counts.items()}
        return {
            "started": self.started, "images": sum(counts.values()), **counts,
            "images_per_minute": round(len(self._ends) * 60 / window, 1), "seconds_p95": slow,
        }  # fmt: skip


class Watcher:
    """Scores what arrives in a folder.

    ``moves`` says by verdict into which folder a file goes, others stay where they are. ``then`` is called with each
    file that was scored. ``tell`` says to people what went wrong. A bank that somebody teaches meanwhile is followed.
    """

    def __init__(
        self,
        detector: NaglEdge,
        arrivals: Arrivals,
        log: PredictionLog,
        rules: RulesOf,
        moves: Mapping[str, Path] | None = None,
        then: Callable[[Scored], None] | None = None,
        tell: Tell = print,
    ) -> None:
        self.detector, self.arrivals, self.log = detector, arrivals, log
        self._rules, self._moves, self._then, self.tell = rules, dict(moves or {}), then, tell
        self.pulse, self.waiting, self.last = Pulse(), 0, ""
        self.drift = Drift.of_json(_read_json(log.folder / DRIFT))
        self._drift = b""  # as it was written last
        self._said: set[tuple[str, str]] = set()
        self._adopt()

    def step(self, arrived: Sequence[Arrival], stopped: Callable[[], bool], between: Callable[[], None]) -> int:
        """Score files that are whole, unless it is ``stopped``, and call ``between`` them; returns how many."""
        present = {Path(path).as_posix() for path in self.arrivals.present}
        for path in self.log.done.keys() - present:
            self.log.forget(path)
        new = [one for one in arrived if not self._is_done(one)]
        self.waiting = len(new)
        for one in new:
            if stopped():
                break
            self._take(one)
            self.waiting -= 1
            between()
        return len(new) - self.waiting

    def _is_done(self, one: Arrival) -> bool:
        """Whether a file was scored as it is; one that a program left before it was moved is moved now."""
        known = self.log.done.get(one.path.as_posix())
        if known is None or known.identity != one.identity:
            return False
        self._move(one.path, known)
        return True

    def _take(self, one: Arrival) -> None:
        begun = time.monotonic()
        try:
            row = self._score(one.path)
        except FileNotFoundError:  # taken away in between
            return
        except Exception as error:  # whatever a file can cause: the next one is scored all the same
            row = failed_row(one.path, error)
        self.pulse.count(row, time.monotonic() - begun)
        self.log.write(row, one.identity, now())
        self.last = row.image
        path = self._move(one.path, self.log.done[row.image])
        if self._then is not None:
            self._then(Scored(row, path))

    def _score(self, path: Path) -> PredictionRow:
        try:
            pixels = read_image(path)
        except ValueError:
            if not path.exists():
                raise FileNotFoundError(path) from None
            raise
        tokens = self.detector.encode(pixels)
        if self.detector.changed():
            self.detector.reload()
            self._adopt()
        found = self.detector.score(tokens)
        self._watch_drift(tokens)
        size = int(pixels.shape[0]), int(pixels.shape[1])
        said = Found(found.score, found.map, found.nearest_reference)
        return judge(path.as_posix(), said, size, self._rules(self.detector))

    def _adopt(self) -> None:
        """Take over the references of this moment: what is normal, and how alike they are."""
        patches = self.detector.patches
        self._normal, self._inside = normal_patches(patches), patches.inside
        self.drift.own = own_range(patches)

    def _watch_drift(self, tokens: Any) -> None:
        day = now()[:10]
        if len(self._normal):
            self.drift.add(day, similarity(tokens, self._normal, self._inside))
        side, sentence = self.drift.side(day), self.drift.sentence(day)
        if side is not None and sentence is not None and (day, side) not in self._said:
            self._said = {one for one in self._said if one[0] == day} | {(day, side)}
            self.tell(sentence)

    def _move(self, path: Path, done: Done) -> Path:
        """Put a file where its verdict asks for; where that cannot be, it stays and is told of."""
        folder = self._moves.get(FAILED if done.failed else done.verdict)
        if folder is None:
            return path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target = _free(folder / path.name)
            try:
                os.rename(path, target)
            except OSError:  # another disk
                shutil.move(path, target)
        except OSError as error:
            self.tell(f"found no way to move {path} to {folder} ({error.strerror or error}): it stays where it is")
            return path
        return target

    def beat(self, state: str = "running") -> None:
        """Write the heartbeat and, where it changed, what is known of drift, each in one step.

        A full disk does not stop the work.
        """
        day = now()[:10]
        facts = {
            "at": now(), "state": state, "pid": os.getpid(), "folder": self.arrivals.folder.as_posix(),
            **self.pulse.facts(), "waiting": self.waiting, "last": self.last,
            "bank": self.detector.bank.as_posix(), "revision": self.detector.revision,
            "drift": self.drift.facts(day),
        }  # fmt: skip
        drift = json.dumps(self.drift.to_json()).encode()
        try:
            atomic_write_bytes(self.log.folder / HEARTBEAT, json.dumps(facts, indent=1).encode())
            if drift != self._drift:
                atomic_write_bytes(self.log.folder / DRIFT, drift)
                self._drift = drift
        except OSError as error:
            self.tell(str(error))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def watch(
    watcher: Watcher, stopped: Callable[[], bool], wait: Callable[[float], Any], poll: float, heartbeat: float
) -> None:
    """Score what arrives until it is ``stopped``; ``wait`` lets so many seconds pass, or fewer when it is.

    A folder that cannot be looked into for a while, as a network drive, is looked into again.
    """
    beaten, missing = -math.inf, False

    def beat() -> None:
        nonlocal beaten
        if time.monotonic() - beaten >= heartbeat:
            watcher.beat()
            beaten = time.monotonic()

    try:
        while not stopped():
            try:
                arrived, missing = watcher.arrivals.whole(), False
            except OSError as error:
                if not missing:
                    watcher.tell(
                        f"found {watcher.arrivals.folder} gone ({error.strerror}), expected the folder to watch"
                    )
                arrived, missing = [], True
            beat()
            if not watcher.step(arrived, stopped, beat):
                wait(poll)
    finally:
        watcher.log.keep_done()
        watcher.beat("stopped")


def _free(path: Path) -> Path:
    """The path, or one with a number behind its name: nothing is written over."""
    found, count = path, 1
    while os.path.lexists(found):
        count += 1
        found = path.with_name(f"{path.stem}_{count}{path.suffix}")
    return found


def _read_json(path: Path) -> object:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def moves_of(given: Sequence[tuple[str, Path]], by_verdict: Path | None) -> dict[str, Path]:
    """Folders by verdict: those that were named, and a folder for each verdict below ``by_verdict``."""
    names = [name for name in (*VERDICTS, FAILED) if name]
    found = {} if by_verdict is None else {name: by_verdict / name.replace(" ", "_") for name in names}
    return found | {name.replace("-", " "): path for name, path in given}
