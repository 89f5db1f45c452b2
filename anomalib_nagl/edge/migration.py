"""Taking over what was taught to another model, or to an earlier version: images are encoded anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anomalib_nagl.bank import schema
from anomalib_nagl.bank.acceptance import Marked, marked_of
from anomalib_nagl.bank.bank_file import BankFile, read_model
from anomalib_nagl.bank.border import CALIBRATION, SCALE, THRESHOLDS
from anomalib_nagl.bank.interest import REGION
from anomalib_nagl.bank.old_formats import read_format_2
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.io import given
from anomalib_nagl.io.errors import EdgeError

_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Migrated:
    """What became of the references of an old bank, by name.

    ``encoded`` were encoded anew, ``copied`` taken as they were, ``present`` are in the new bank already.
    ``differences`` say where the models differ. ``marked`` are images of the acceptance set that were taken along,
    ``disputed`` those that are marked otherwise in the new bank, where they stay so.
    """

    encoded: tuple[str, ...]
    copied: tuple[str, ...]
    present: tuple[str, ...]
    differences: tuple[str, ...]
    marked: tuple[str, ...] = ()
    disputed: tuple[str, ...] = ()


def migrate(old: str | Path, detector: NaglEdge) -> Migrated:
    """Add the references of an old bank to that of a model, in one change that can be undone.

    Those of another backbone, head, image size or grid are encoded anew from their images; those of the same one are
    taken as they are. What the new bank has already, by content, stays as it is there, and so do its scales and
    thresholds, unless both models are the same and the old one has scales. The region of interest comes along where the
    new bank has none, and images of the acceptance set that it does not mark. EdgeError where images are needed that
    were left out.
    """
    facts, lessons, known, marks = _open(Path(old))
    wanted = detector.compatibility
    keys = [key for key in {**facts, **wanted} if facts.get(key) != wanted.get(key)]
    differences = tuple(f"{key}: {facts.get(key)!r} is {wanted.get(key)!r} now" for key in keys)
    alike = not [key for key in keys if key in facts]
    have = {_content(one) for one in detector.references}
    taken = {one.name for one in detector.references}
    new = [lesson for lesson in lessons if _content(lesson.reference) not in have or not lesson.reference.sha256]
    present = tuple(lesson.reference.name for lesson in lessons if lesson not in new)
    ready = []
    for lesson in new:
        made = lesson if alike else _encoded(detector, lesson)
        name = _free(made.reference.name, taken)
        taken.add(name)
        ready.append(replace(made, reference=replace(made.reference, name=name)))
    # Thresholds of a version without scales are raw scores, which mean nothing on one.
    decided = (THRESHOLDS, SCALE, CALIBRATION) if alike and SCALE in known else ()
    settings = {name: known[name] for name in decided if name in known}
    if REGION in known and detector.region is None:
        settings[REGION] = known[REGION]
    there = {one.sha256: one.mark for one in _marked(detector.bank)}
    detector.add_all("migrate", ready, settings, Path(old) if marks else None)
    names = tuple(lesson.reference.name for lesson in ready)
    return Migrated(
        encoded=() if alike else names,
        copied=names if alike else (),
        present=present,
        differences=differences,
        marked=tuple(one.name for one in marks if one.sha256 not in there),
        disputed=tuple(one.name for one in marks if there.get(one.sha256, one.mark) != one.mark),
    )


def _marked(path: Path) -> list[Marked]:
    with schema.reading(path) as connection:
        return marked_of(connection)


def _open(path: Path) -> tuple[dict[str, object], list[Lesson], Mapping[str, Any], list[Marked]]:
    """Facts of the model, references, settings and acceptance set of a bank of any format."""
    if not path.is_file():
        raise EdgeError(f"found no reference bank at {path}, expected one to take over: check the path")
    with path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    if not is_database:
        old = read_format_2(path)
        return dict(old.compatibility), old.lessons, {}, []
    schema.check_integrity(path)
    facts = read_model(path)
    bank = BankFile(path, facts)
    found = bank.snapshot()
    return facts, [bank.lesson(one.name) for one in found.references], found.settings, _marked(path)


def _encoded(detector: NaglEdge, lesson: Lesson) -> Lesson:
    """A reference encoded anew by the detector."""
    one = lesson.reference
    if not lesson.files:
        raise EdgeError(
            f"found reference {one.name!r} without its image, which another backbone, head or grid needs; expected the "
            "images to be kept in the bank: add them anew, or migrate to the model that the bank was made for"
        )
    return detector.encode_again(one, given.read(lesson.files, one.name), lesson.files)


def _content(one: Reference) -> tuple[str, str, str]:
    return one.kind, one.sha256, one.mask_sha256


def _free(name: str, taken: set[str]) -> str:
    """The name, or one with a number behind it."""
    free, count = name, 2
    while free in taken:
        free, count = f"{name} ({count})", count + 1
    return free
