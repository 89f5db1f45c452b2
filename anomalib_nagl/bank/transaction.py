"""A reference bank that can be changed in several steps at once: all of them are kept, or none."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalib_nagl.bank import acceptance, history, schema
from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.bank.bank_file import BankFile
from anomalib_nagl.bank.border import THRESHOLDS
from anomalib_nagl.bank.copied_rows import copy_reference
from anomalib_nagl.bank.history import Edit
from anomalib_nagl.bank.reference import Reference, check_text
from anomalib_nagl.bank.reference_rows import reference_of
from anomalib_nagl.bank.setting_rows import settings_of, texts_of, write_settings
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File


class TransactionBank(BankFile):
    """A reference bank whose changes within ``at_once`` are one transaction; for one thread at a time."""

    _open: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Keep the changes made within, each with its line in the history, or none of them."""
        with super()._changing() as connection:
            self._open = connection
            try:
                yield
            finally:
                self._open = None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        if self._open is not None:
            yield self._open
        else:
            with super()._changing() as connection:
                yield connection

    def copy_to(self, path: Path) -> int:
        """Write the whole bank as it is now, with its history, to a new file; returns its revision."""
        with schema.reading(self.path) as connection, contextlib.closing(sqlite3.connect(path)) as target:
            connection.backup(target)
            return history.revision(connection)

    def copy_from(self, draft: BankFile, reference: Reference) -> str:
        """Add a reference of another bank of this model, with the facts that are given; returns its new key."""
        with self._changing() as connection, schema.reading(draft.path) as source:
            added = copy_reference(source, connection, reference.uid, reference, self.author)
            edits = [Edit("reference", added.uid, "removed", 1, 0)]
            history.commit(connection, self.author, "add", f"{added.kind} {added.name}", edits)
        return added.uid

    def change(self, uid: str, action: str, field: str, after: Any) -> None:
        """Change a field of a reference (``history.FIELDS``); EdgeError where it is removed or gone."""
        if field in ("name", "defect_type"):
            check_text(field.replace("_", " "), after, empty=field == "defect_type")
        with self._changing() as connection:
            one = reference_of(connection, uid)
            row = connection.execute(f"SELECT {field}, removed FROM reference WHERE uid = ?", (uid,)).fetchone()
            if row[1]:
                raise EdgeError(
                    f"found reference {one.name!r} removed by somebody else, expected it to be there: discard the "
                    "draft, or undo that change"
                )
            edits = [] if row[0] == after else [Edit("reference", uid, field, row[0], after)]
            for edit in edits:
                history.apply(connection, edit)
            if edits:
                summary = f"{one.name} to {after}" if field in ("name", "defect_type") else one.name
                history.commit(connection, self.author, action, summary, edits)

    def set_some(self, action: str, summary: str, settings: dict[str, Any]) -> None:
        """Change settings, with a line about it; of thresholds, those that are None stay as they are."""
        with self._changing() as connection:
            if THRESHOLDS in settings:
                known = settings_of(connection).get(THRESHOLDS, [None, None])
                pairs = zip(known, settings[THRESHOLDS], strict=True)
                settings = {**settings, THRESHOLDS: [old if new is None else new for old, new in pairs]}
            if edits := write_settings(connection, texts_of(settings)):
                history.commit(connection, self.author, action, summary, edits)

    def mark(self, sha256: str, name: str, said: str | None, file: File) -> None:
        """Say what an image of the acceptance set is (``bank.acceptance``)."""
        check_text("name", name)
        with self._changing() as connection:
            if edits := acceptance.mark(connection, sha256, name, said, file, self.author):
                summary = f"{name} is {said}" if said else f"{name} without a mark"
                history.commit(connection, self.author, "mark", summary, edits)

    def with_images(self) -> set[str]:
        """Keys of the references whose images are kept."""
        with schema.reading(self.path) as connection:
            rows = connection.execute(
                "SELECT DISTINCT uid FROM image JOIN reference ON reference.id = image.reference WHERE role = 'image'"
            )
            return {uid for (uid,) in rows}

    def files_of(self, uid: str) -> dict[str, File]:
        """Image and mask of a reference, as far as they are kept."""
        with schema.reading(self.path) as connection:
            rows = connection.execute(
                "SELECT role, media, data FROM image JOIN reference ON reference.id = image.reference WHERE uid = ?",
                (uid,),
            )
            return {role: File(media, data) for role, media, data in rows}

    def marked(self) -> list[Marked]:
        """The acceptance set."""
        with schema.reading(self.path) as connection:
            return acceptance.marked_of(connection)

    def marked_file(self, sha256: str) -> File:
        """The image of one of the acceptance set."""
        with schema.reading(self.path) as connection:
            return acceptance.file_of(connection, sha256)
