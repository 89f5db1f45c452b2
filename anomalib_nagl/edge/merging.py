"""Banks of several boxes as one, and what tells two of them apart; references are the same by their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from anomalib_nagl.bank import acceptance, schema
from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.bank.bank_file import BankFile, read_model
from anomalib_nagl.bank.border import CALIBRATION, SCALE, THRESHOLDS
from anomalib_nagl.bank.interest import REGION
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.bank.reference_rows import removed_of
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_files

Content = tuple[str, str, str]
DECISIONS = (THRESHOLDS, SCALE, CALIBRATION)  # that belong together
_FACTS = {"name": "name", "defect_type": "type", "active": "active"}


class Held(NamedTuple):
    """What a bank holds: references by their content, settings, and the acceptance set by the hash of its images."""

    path: Path
    facts: dict[str, Any]
    references: dict[Content, Reference]
    removed: frozenset[Content]
    settings: dict[str, Any]
    bank: BankFile
    marked: dict[str, Marked]
    unmarked: frozenset[str]


class Merged(NamedTuple):
    """What became of several banks: how many references each gave, a sentence for each conflict, and marked images."""

    given: dict[Path, int]
    conflicts: list[str]
    marked: int = 0


def hold(path: Path) -> Held:
    """Read a bank, or the one beside an exported ``NAME.xml``; EdgeError where it cannot be."""
    bank = path.with_suffix(".bank") if path.suffix == ".xml" else path
    schema.check_integrity(bank)
    facts = read_model(bank)
    file = BankFile(bank, facts)
    found = file.snapshot()
    with schema.reading(bank) as connection:
        removed = frozenset(map(content_of, removed_of(connection)))
        marked = {one.sha256: one for one in acceptance.marked_of(connection)}
        unmarked = acceptance.unmarked_of(connection)
    references = {content_of(one): one for one in found.references}
    return Held(path, facts, references, removed, found.settings, file, marked, unmarked)


def content_of(one: Reference) -> Content:
    """What makes a reference: its kind, the hash of its image and that of its mask; without hashes its name."""
    return one.kind, one.sha256 or f"named {one.name}", one.mask_sha256


def merge(paths: Sequence[Path], out: Path, thresholds: int = 0, region: int = 0) -> Merged:
    """Write the references of several banks of one model to a new one, each once.

    Where two differ about a reference, or about an image of the acceptance set, the first one counts; of names that two
    give to different images the later ones get a number. Thresholds with their scales, and the region, are those of the
    banks at these places. EdgeError for banks of different models, and where something is at ``out`` already.
    """
    held = [hold(path) for path in paths]
    _check_alike(held)
    if out.exists():
        raise EdgeError(f"found something at {out} already, expected nothing: choose another -o, or move it away")
    union = _Union(held)
    for one in held:
        for content, reference in one.references.items():
            union.take(one, content, reference)
    settings = {
        **_chosen(held, thresholds, DECISIONS, "thresholds or scales", union.conflicts),
        **_chosen(held, region, (REGION,), "the region", union.conflicts),
    }

    union.conflicts += _disputed(held)

    def write(folder: Path) -> Path:
        BankFile.create(folder / out.name, held[0].facts, settings, union.lessons, None)
        for one in held:
            acceptance.copy(one.bank.path, folder / out.name)
        return folder / out.name

    atomic_files(out.parent, write)
    return Merged(union.given, union.conflicts, len({sha256 for one in held for sha256 in one.marked}))


class _Union:
    """References of several banks, each once."""

    def __init__(self, held: Sequence[Held]) -> None:
        self._held, self._known = held, dict[Content, tuple[Reference, Path]]()
        self._names: set[str] = set()
        self.lessons: list[Lesson] = []
        self.given = {one.path: 0 for one in held}
        self.conflicts: list[str] = []

    def take(self, one: Held, content: Content, reference: Reference) -> None:
        """Add a reference of a bank, unless it is there already."""
        if content in self._known:
            self.conflicts += _about(*self._known[content], reference, one.path)
            return
        name = _free(reference.name, self._names)
        if name != reference.name:
            self.conflicts.append(
                f"{reference.name} of {one.path} is another image than that of an earlier bank: it is called {name}"
            )
        without = [other for other in self._held if content not in other.references]
        self.conflicts += [
            f"{name} of {one.path} was removed in {other.path}: it is kept"
            for other in without if content in other.removed
        ]  # fmt: skip
        self._names.add(name)
        self._known[content] = reference, one.path
        lesson = one.bank.lesson(reference.name)
        self.lessons.append(replace(lesson, reference=replace(lesson.reference, name=name)))
        self.given[one.path] += 1


def _disputed(held: Sequence[Held]) -> list[str]:
    """What banks do not agree about in the acceptance set."""
    lines, known = list[str](), dict[str, tuple[Marked, Path]]()
    for one in held:
        for sha256, marked in one.marked.items():
            if sha256 in known:
                lines += _about_mark(*known[sha256], marked, one.path)
                continue
            known[sha256] = marked, one.path
            lines += [
                f"the mark of {marked.name} of {one.path} was taken back in {other.path}: it is kept"
                for other in held if sha256 in other.unmarked
            ]  # fmt: skip
    return lines


def _about_mark(first: Marked, where: Path, second: Marked, there: Path) -> list[str]:
    same = first.mark == second.mark
    return [] if same else [f"mark of {first.name}: {first.mark} in {where}, {second.mark} in {there}"]


def _chosen(held: Sequence[Held], place: int, names: Sequence[str], what: str, conflicts: list[str]) -> dict[str, Any]:
    """Settings of the bank at a place; it is told where others have different ones."""
    taken = held[place].settings
    for one in held:
        if any(one.settings.get(name) != taken.get(name) for name in names):
            conflicts.append(f"{what} of {one.path} differ: of {held[place].path} they are taken")
    return {name: taken[name] for name in names if name in taken}


def differences(one: Path, other: Path) -> list[str]:
    """What tells two banks apart, a line for each; none where they hold the same."""
    first, second = hold(one), hold(other)
    lines = [
        f"model: {key} is {first.facts.get(key)!r} in {one}, {second.facts.get(key)!r} in {other}"
        for key in sorted({*first.facts, *second.facts}) if first.facts.get(key) != second.facts.get(key)
    ]  # fmt: skip
    for content, reference in first.references.items():
        if content in second.references:
            lines += _about(reference, one, second.references[content], other)
    for where, here, there in ((one, first, second), (other, second, first)):
        for content, found in here.references.items():
            if content in there.references:
                continue
            removed = " (removed in the other)" if content in there.removed else ""
            lines.append(f"only in {where}: {found.kind} {found.name} ({found.defect_type}){removed}")
    for sha256, marked in first.marked.items():
        if sha256 in second.marked:
            lines += _about_mark(marked, one, second.marked[sha256], other)
    for where, here, there in ((one, first, second), (other, second, first)):
        for sha256, image in here.marked.items():
            if sha256 not in there.marked:
                back = " (taken back in the other)" if sha256 in there.unmarked else ""
                lines.append(f"only in {where}: {image.name} of the acceptance set, {image.mark}{back}")
    for name in sorted({*first.settings, *second.settings}):
        before, after = first.settings.get(name), second.settings.get(name)
        if before != after:
            lines.append(f"setting {name} differs{_shown(name, before, after)}")
    return lines


def _about(first: Reference, where: Path, second: Reference, there: Path) -> list[str]:
    """In what two banks differ about a reference that both have."""
    return [
        f"{what} of {first.name}: {getattr(first, fact)} in {where}, {getattr(second, fact)} in {there}"
        for fact, what in _FACTS.items() if getattr(first, fact) != getattr(second, fact)
    ]  # fmt: skip


def _shown(name: str, before: object, after: object) -> str:
    return f": {before} and {after}" if name == THRESHOLDS else ""


def _check_alike(held: Sequence[Held]) -> None:
    """Raise EdgeError unless all banks are of one model."""
    first = held[0]
    for one in held[1:]:
        keys = [key for key in sorted({*first.facts, *one.facts}) if first.facts.get(key) != one.facts.get(key)]
        if keys:
            raise EdgeError(
                f"found {one.path} made for another model than {first.path} ({', '.join(keys)}), expected banks of "
                "one: take it over with `anomalib-nagl edge migrate OLD_BANK MODEL` first"
            )


def _free(name: str, taken: set[str]) -> str:
    """The name, or one with a number behind it."""
    free, count = name, 2
    while free in taken:
        free, count = f"{name} ({count})", count + 1
    return free
