"""``anomalib-nagl edge check``: images that are known to be good or defective, before and after a lesson."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.arrays import decoder
from anomalib_nagl.io.errors import EdgeError, printable

GOOD_FOLDERS, DEFECT_FOLDERS = ("good", "normal"), ("defects", "abnormal")
KEPT = 200  # images whose tokens are kept, to be scored again after a lesson without being encoded again


class Labelled(NamedTuple):
    """An image that is known to be good or defective, and its name within the folder."""

    path: Path
    name: str
    defective: bool


class Judged(NamedTuple):
    """The score of a labelled image, and whether it is above the threshold."""

    image: Labelled
    score: float
    alarm: bool

    @property
    def right(self) -> bool:
        """Whether that is what it should be."""
        return self.alarm == self.image.defective


def labelled_images(folder: Path) -> list[Labelled]:
    """Images below ``good/`` or ``normal/``, and ``defects/`` or ``abnormal/``; EdgeError where there is none."""
    find = decoder().find_images
    kinds = [*((name, False) for name in GOOD_FOLDERS), *((name, True) for name in DEFECT_FOLDERS)]
    found = [
        Labelled(path, path.relative_to(folder).as_posix(), defective)
        for name, defective in kinds
        if (folder / name).is_dir()
        for path in find(folder / name)
        if not path.stem.endswith("_mask")
    ]
    if not found:
        raise EdgeError(
            f"found no labelled images in {folder}, expected good/ and defects/ (or normal/ and abnormal/) with images "
            "in it: make them, of parts that are no references"
        )
    return found


class LabelledFolder:
    """Labelled images that are scored more than once; those that cannot be read are told once, in ``failed``."""

    def __init__(self, folder: Path) -> None:
        self.images = labelled_images(folder)
        self.failed: dict[str, str] = {}
        self._tokens: dict[str, NDArray[np.float32]] = {}

    def judge(self, detector: NaglEdge) -> dict[str, Judged]:
        """Scores by name; EdgeError for a model without a threshold."""
        threshold = detector.score_threshold
        if threshold is None:
            raise EdgeError(
                "found a model without a threshold, expected one that tells good from defective: run edge calibrate"
            )
        judged = {}
        for image in self.images:
            try:
                tokens = self._tokens[image.name] if image.name in self._tokens else detector.encode(image.path)
                if len(self._tokens) < KEPT:
                    self._tokens[image.name] = tokens
                score = detector.score(tokens).score
            except (ValueError, OSError) as error:
                self.failed.setdefault(image.name, str(error))
                continue
            judged[image.name] = Judged(image, score, score > threshold)
        return judged


def counts(judged: Mapping[str, Judged]) -> str:
    """How many defects are found, and how many good images raise an alarm."""
    defects = [one.alarm for one in judged.values() if one.image.defective]
    good = [one.alarm for one in judged.values() if not one.image.defective]
    return f"{sum(defects)} of {len(defects)} defects found, {sum(good)} false alarms among {len(good)} good images"


class Difference(NamedTuple):
    """What a lesson changes: lines for people, and which images are judged wrongly since."""

    lines: list[str]
    worse: list[str]


def compare(before: Mapping[str, Judged], after: Mapping[str, Judged]) -> Difference:
    """Misses found, new alarms, and the reverse of both."""
    words = {
        (True, True): "found now", (True, False): "missed now",
        (False, True): "new false alarm", (False, False): "no false alarm any more",
    }  # fmt: skip
    lines, worse = [f"before: {counts(before)}"], []
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if old.alarm == new.alarm:
            continue
        lines.append(f"{words[new.image.defective, new.alarm]}: {name}, score {old.score:.3f} to {new.score:.3f}")
        worse += [] if new.right else [name]
    return Difference([lines[0], *sorted(lines[1:]), f"after: {counts(after)}"], sorted(worse))


def check(options: argparse.Namespace) -> int:
    """Score a labelled folder; returns the exit status."""
    folder = LabelledFolder(options.labelled)
    judged = folder.judge(NaglEdge(options.model, bank=options.bank))
    for name, one in judged.items():
        if not one.right:
            print(printable(f"{'missed' if one.image.defective else 'false alarm'}: {name}, score {one.score:.3f}"))
    print(counts(judged))
    return _tell_failed(folder)


def _tell_failed(folder: LabelledFolder) -> int:
    for name, error in folder.failed.items():
        print(printable(f"{name}: failed: {error}"), file=sys.stderr)
    return exit_codes.of_items(len(folder.failed))


def try_lesson(detector: NaglEdge, labelled: Path, teach: Callable[[NaglEdge], None], model: Path, yes: bool) -> None:
    """Teach a copy of the bank first, and tell what becomes of a labelled folder.

    Where something gets worse it is asked whether to go on: EdgeError if the answer is no. The bank itself is not
    touched.
    """
    folder = LabelledFolder(labelled)
    before = folder.judge(detector)
    with tempfile.TemporaryDirectory() as room:
        copy = Path(room) / "tried.bank"
        detector.save(copy, images=False)
        tried = NaglEdge(model, bank=copy)
        teach(tried)
        difference = compare(before, folder.judge(tried))
    for line in difference.lines:
        print(printable(line))
    _tell_failed(folder)
    if difference.worse:
        some = ", ".join(difference.worse[:3])
        confirm(
            [f"{len(difference.worse)} images are judged wrongly after this lesson and were not before ({some})"], yes
        )


def confirm(doubts: Sequence[str], yes: bool) -> None:
    """Ask whether to go on in spite of doubts; EdgeError unless somebody says yes, with ``--yes`` or at a terminal."""
    if not doubts or yes:
        return
    reason = "; ".join(doubts)
    if not sys.stdin.isatty():
        raise EdgeError(f"found that {reason}, expected a lesson that can be kept: give --yes to keep it all the same")
    if input(printable(f"{reason}. Keep the lesson all the same? [y/N] ")).strip().lower() not in ("y", "yes"):
        raise EdgeError(f"found that {reason}: nothing was changed")
