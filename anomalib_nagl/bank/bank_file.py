"""The reference bank in its file: read in one state, changed in one step, whoever else does the same."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank import acceptance, derived, history, interest, schema
from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.border import THRESHOLDS, check_lesson
from anomalib_nagl.bank.compared import ComparedReader, check_comparable
from anomalib_nagl.bank.history import Author, Change, Edit
from anomalib_nagl.bank.reference import Lesson, Reference, check_text
from anomalib_nagl.bank.reference_rows import insert, lesson_of, named, references_of
from anomalib_nagl.bank.setting_rows import model_of, settings_of, texts_of, write_settings
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_files
from anomalib_nagl.io.model_facts import check_facts


@dataclass(frozen=True)
class Snapshot:
    """One state of a bank: its references, in the order in which they were added, and its settings.

    ``compared`` are those whose patches are compared with, in the order of ``patches``, normal ones first.
    """

    revision: int
    references: tuple[Reference, ...]
    settings: dict[str, Any]
    patches: ReferencePatches = field(repr=False)
    proxies: NDArray[np.float32] | None = field(repr=False)  # None where they have to be mined anew
    compared: tuple[Reference, ...] = ()

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """Thresholds (2,) of image scores and pixels on their scales; NaN where there is none."""
        values = self.settings.get(THRESHOLDS, [None, None])
        return np.array([math.nan if value is None else value for value in values], np.float32)


class BankFile:
    """A reference bank in the file ``path``.

    ``compatibility`` names the backbone, head and grid of the model whose numbers it holds; EdgeError for a bank of
    another one. ``author`` stands in the history beside what is changed. It may be used by any thread and process:
    every call opens the file for itself.
    """

    def __init__(self, path: str | Path, compatibility: Mapping[str, Any], author: str | None = None) -> None:
        self.path, self._compatibility = Path(path), dict(compatibility)
        self.author = Author(author or _whoever(), uuid.uuid4().hex)
        self._compared = ComparedReader(lambda: schema.reading(self.path), self._compatibility)
        with schema.reading(self.path) as connection:
            _check_model(connection, self.path, self._compatibility)

    @classmethod
    def create(
        cls,
        path: Path,
        compatibility: Mapping[str, Any],
        settings: Mapping[str, Any],
        lessons: Sequence[Lesson],
        proxies: NDArray[np.float32] | None,
    ) -> BankFile:
        """Write a new bank at ``path``, where nothing is: the references and settings of an exported model."""
        schema.create(path)
        author = Author("export")
        with schema.writing(path) as connection:
            rows = [(name, json.dumps(value)) for name, value in compatibility.items()]
            connection.executemany("INSERT INTO model VALUES (?, ?)", rows)
            connection.executemany("INSERT INTO setting VALUES (?, ?)", texts_of(settings).items())
            for lesson in lessons:
                check_lesson(lesson, compatibility)
                insert(connection, lesson, author)
            number = history.commit(connection, author, "created", f"exported with {len(lessons)} references", [])
            derived.write(connection, number, proxies)
        return cls(path, compatibility)

    def revision(self) -> int:
        """The number of the last change, to notice those of others."""
        with schema.reading(self.path) as connection:
            return history.revision(connection)

    def history(self) -> list[Change]:
        """All changes, the oldest first."""
        with schema.reading(self.path) as connection:
            return history.changes(connection)

    def snapshot(self) -> Snapshot:
        """The state of this moment."""
        with schema.reading(self.path) as connection:
            _check_model(connection, self.path, self._compatibility)
            number = history.revision(connection)
            references = references_of(connection)
            settings = settings_of(connection)
            region = interest.of_settings(settings, self._compatibility)
            compared = self._compared.read(connection, references, region)
            proxies = derived.read(connection, number, self._proxies_shape)
        return Snapshot(number, references, settings, compared.patches, proxies, compared.references)

    @contextlib.contextmanager
    def read_at_once(self) -> Iterator[None]:
        """Read the patches of a snapshot through one connection."""
        with self._compared.pools:
            yield

    def keep_proxies(self, revision: int, proxies: NDArray[np.float32]) -> None:
        """Keep what was mined for a revision, so that nobody mines it again; nothing where that cannot be written."""
        with contextlib.suppress(EdgeError), schema.writing(self.path) as connection:
            if history.revision(connection) == revision:
                derived.write(connection, revision, proxies)

    def add(self, lesson: Lesson) -> None:
        """Add a reference; EdgeError if its name is taken."""
        self.add_all("add", [lesson], {})

    def add_all(
        self, action: str, lessons: Sequence[Lesson], settings: Mapping[str, Any], marked: Path | None = None
    ) -> None:
        """Add references, change settings, and take over the acceptance set of the bank ``marked``, in one change."""
        for lesson in lessons:
            check_lesson(lesson, self._compatibility)
        texts = texts_of(settings)
        with self._changing() as connection:
            added = [insert(connection, lesson, self.author) for lesson in lessons]
            edits = [Edit("reference", one.uid, "removed", 1, 0) for one in added]
            edits += write_settings(connection, texts)
            taken = [] if marked is None else acceptance.take(connection, marked, self.author)
            if edits or taken:
                summary = f"{added[0].kind} {added[0].name}" if len(added) == 1 else f"{len(added)} references"
                summary += f", {len(taken)} marked images" if taken else ""
                edits += taken
                history.commit(connection, self.author, action, summary, edits)

    def remove(self, name: str) -> None:
        """Forget a reference, as if it had never been there, until that is undone; EdgeError if it is the last one."""
        self._edit(name, "remove", "removed", 1)

    def switch(self, name: str, active: bool) -> None:
        """Compare with a reference or not; it stays in the bank either way."""
        self._edit(name, "on" if active else "off", "active", int(active))

    def rename(self, name: str, new: str) -> None:
        """Give a reference another name; EdgeError if that is taken."""
        check_text("name", new)
        self._edit(name, "rename", "name", new)

    def set(self, action: str, **settings: Any) -> None:
        """Change settings; None takes one away."""
        texts = texts_of(settings)
        with self._changing() as connection:
            edits = write_settings(connection, texts)
            if edits:
                summary = ", ".join(f"{edit.key} {edit.after}" for edit in edits)
                history.commit(connection, self.author, action, summary, edits)

    def set_region(self, region: NDArray[np.float32]) -> None:
        """Look only where a region (H, W) of the network input is not zero; ``interest.ALL`` looks everywhere again.

        EdgeError where no normal patch lies in it.
        """
        texts = texts_of({interest.REGION: interest.to_setting(region)})
        with self._changing() as connection:
            edits = write_settings(connection, texts)
            if edits:
                looked = "everywhere" if interest.everywhere(region) else f"{float(region.mean()):.0%} of the picture"
                history.commit(connection, self.author, "region", looked, edits)

    def undo(self, number: int | None = None) -> Change:
        """Take back a change (``history.undo``); returns the one that was taken back."""
        with self._changing() as connection:
            return history.undo(connection, self.author, number)

    def load(self, path: Path) -> None:
        """Take over the references and settings of another bank of this model, and what it marks, in one change."""
        schema.check_integrity(path)
        with schema.reading(path) as other:
            _check_model(other, path, self._compatibility)
            lessons = [(lesson_of(other, one, self._compatibility)) for one in references_of(other)]
            settings = texts_of({interest.REGION: None, **settings_of(other)})
        with self._changing() as connection:
            edits = [Edit("reference", one.uid, "removed", 0, 1) for one in references_of(connection)]
            for edit in edits:
                history.apply(connection, edit)
            added = [insert(connection, lesson, self.author) for lesson in lessons]
            edits += [Edit("reference", one.uid, "removed", 1, 0) for one in added]
            edits += write_settings(connection, settings)
            edits += acceptance.take(connection, path, self.author)
            history.commit(connection, self.author, "load", f"{len(added)} references of a file", edits)

    def save(self, path: Path, images: bool = True) -> None:
        """Write what is not removed to another file in one step, with the images or without; history starts anew."""
        with schema.reading(self.path) as connection:
            settings = settings_of(connection)
            lessons = [lesson_of(connection, one, self._compatibility, images) for one in references_of(connection)]
            proxies = derived.read(connection, history.revision(connection), self._proxies_shape)

        def write(folder: Path) -> Path:
            written = folder / path.name  # as it will be called
            self.create(written, self._compatibility, settings, lessons, proxies)
            if images:
                acceptance.copy(self.path, written)
            return written

        atomic_files(path.parent, write)

    def lesson(self, name: str, images: bool = True) -> Lesson:
        """All that is kept of a reference; EdgeError if there is none of this name."""
        with schema.reading(self.path) as connection:
            return lesson_of(connection, named(connection, name), self._compatibility, images)

    @property
    def _proxies_shape(self) -> tuple[int, int]:
        return int(self._compatibility["num_proxies"]), int(self._compatibility["dim"])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that leaves a bank that can be compared with, or none."""
        try:
            with schema.writing(self.path) as connection:
                _check_model(connection, self.path, self._compatibility)
                yield connection
                check_comparable(connection, self._compatibility)
        except sqlite3.IntegrityError as error:
            raise EdgeError(
                "found a reference of that name already, expected another name: remove or rename it first"
            ) from error

    def _edit(self, name: str, action: str, what: str, after: Any) -> None:
        with self._changing() as connection:
            one = named(connection, name)
            (before,) = connection.execute(f"SELECT {what} FROM reference WHERE uid = ?", (one.uid,)).fetchone()
            edits = [] if before == after else [Edit("reference", one.uid, what, before, after)]
            summary = f"{name} to {after}" if what == "name" else name
            for edit in edits:
                history.apply(connection, edit)
            if edits:
                history.commit(connection, self.author, action, summary, edits)


def _whoever() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a process without a user
        return "unknown"


def read_model(path: Path) -> dict[str, Any]:
    """Facts of the model that a bank was made for."""
    with schema.reading(path) as connection:
        return check_facts(model_of(connection), path)


def was_changed(path: Path) -> bool:
    """Whether a bank was changed since it was written whole; one that cannot be read counts as changed."""
    try:
        with schema.reading(path) as connection:
            return history.revision(connection) > 1
    except EdgeError:
        return True


def _check_model(connection: sqlite3.Connection, path: Path, wanted: Mapping[str, Any]) -> None:
    made_for = model_of(connection)
    different = [f"{key} {made_for.get(key)!r} instead of {value!r}" for key, value in wanted.items()
                 if made_for.get(key) != value]  # fmt: skip
    if different:
        raise EdgeError(
            f"found a reference bank made for another model: {path} ({'; '.join(different)}), expected one of this "
            "backbone, head and grid: `anomalib-nagl edge migrate` encodes its images anew"
        )
