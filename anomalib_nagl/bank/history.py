"""The history of a bank: every change as edits of single fields, so that any of them can be taken back later.

Taking one back is a change of its own. It touches what the change touched and nothing else, and is refused where that
has been changed again since.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timezone
from typing import Any, NamedTuple

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.json_values import parse_json

FIELDS = {"name": str, "defect_type": str, "active": int, "removed": int}
_ALONE = "setting"  # the table whose rows have one field
_MARKED = "acceptance"  # images that were said to be good or defective (``bank.acceptance``)


class Author(NamedTuple):
    """Who changes a bank: a name, and the session in which it happens."""

    name: str
    session: str = ""


class Change(NamedTuple):
    """A change: number, time (UTC), author, what was done, a line about it, and the revision that it takes back."""

    revision: int
    at: str
    author: str
    action: str
    summary: str
    undoes: int | None


class Edit(NamedTuple):
    """One field of the row ``key`` of a table (``reference`` by uid, or ``setting`` by name), before and after."""

    table: str
    key: str
    field: str
    before: Any
    after: Any

    def reversed(self) -> Edit:
        """What takes it back."""
        return self._replace(before=self.after, after=self.before)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit(
    connection: sqlite3.Connection,
    author: Author,
    action: str,
    summary: str,
    edits: list[Edit],
    undoes: int | None = None,
) -> int:
    """Write edits that were applied as one change; returns its revision."""
    text = json.dumps([list(edit) for edit in edits])
    row = (now(), author.name, author.session, action, summary, text, undoes)
    statement = "INSERT INTO change (at, author, session, action, summary, edits, undoes) VALUES (?, ?, ?, ?, ?, ?, ?)"
    return int(connection.execute(statement, row).lastrowid or 0)


def apply(connection: sqlite3.Connection, edit: Edit) -> None:
    """Change a field; EdgeError if it is no longer what the edit was made for."""
    table, key, field, before, after = edit
    if (table, field) == (_ALONE, "value"):
        found = connection.execute("SELECT value FROM setting WHERE name = ?", (key,)).fetchone()
        statement = "INSERT INTO setting (value, name) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?1"
    elif table == "reference" and field in FIELDS:
        found = connection.execute(f"SELECT {field} FROM reference WHERE uid = ?", (key,)).fetchone()
        statement = f"UPDATE reference SET {field} = ? WHERE uid = ?"
    elif (table, field) == (_MARKED, "mark"):
        found = connection.execute("SELECT mark FROM acceptance WHERE sha256 = ?", (key,)).fetchone()
        statement = "UPDATE acceptance SET mark = ? WHERE sha256 = ?"
    else:
        raise EdgeError(f"found a change of {table} {field}, expected one of {', '.join(FIELDS)} or a setting")
    if (found[0] if found else None) != before:
        raise EdgeError(
            f"found {field} of {key} changed again since, expected {before!r}: take back the later change first"
        )
    if after is None and table == _ALONE:
        connection.execute("DELETE FROM setting WHERE name = ?", (key,))
    else:
        connection.execute(statement, (after, key))


def revision(connection: sqlite3.Connection) -> int:
    """The number of the last change."""
    return int(connection.execute("SELECT coalesce(max(revision), 0) FROM change").fetchone()[0])


def changes(connection: sqlite3.Connection) -> list[Change]:
    """All changes, the oldest first."""
    return [Change(*row) for row in connection.execute(
        "SELECT revision, at, author, action, summary, undoes FROM change ORDER BY revision")]  # fmt: skip


def undo(connection: sqlite3.Connection, author: Author, number: int | None = None) -> Change:
    """Take back a change, without a number the last one of the author: of this session first; returns what was undone.

    EdgeError if there is none, if it was taken back already, or if what it changed has been changed again.
    """
    done = {change.revision: change for change in changes(connection)}
    open_ = _standing(list(done.values()))
    chosen = number if number is not None else _last_of(connection, author, open_)
    if not isinstance(chosen, int) or chosen not in done or done[chosen].action == "created":
        raise EdgeError(f"found no change {chosen} to take back, expected one of the history's: see its numbers")
    if chosen not in open_:
        raise EdgeError(f"found change {chosen} taken back already, expected one that stands: see the history")
    (text,) = connection.execute("SELECT edits FROM change WHERE revision = ?", (chosen,)).fetchone()
    edits = [edit.reversed() for edit in reversed(_edits(chosen, text))]
    for edit in edits:
        apply(connection, edit)
    commit(connection, author, "undo", f"took back {chosen}: {done[chosen].summary}", edits, chosen)
    return done[chosen]


def _edits(number: int, text: str) -> list[Edit]:
    """The edits of a change; EdgeError where they cannot be taken back."""
    try:
        found = [Edit(*map(_plain, edit)) for edit in parse_json(text)]
    except (ValueError, TypeError) as error:
        raise EdgeError(
            f"found change {number} in the reference bank that cannot be read ({error}), expected a list of edits: "
            "restore the bank from a copy"
        ) from error
    for edit in found:
        kind = FIELDS.get(edit.field) if edit.table == "reference" else (str, type(None))
        if kind is not None and not (isinstance(edit.before, kind) and isinstance(edit.after, kind)):
            raise EdgeError(
                f"found change {number} in the reference bank with {edit.field} of another type, expected what was "
                "written: restore the bank from a copy"
            )
    return found


def _plain(value: object) -> Any:
    if isinstance(value, list | dict):
        raise TypeError("an edit within an edit")
    return value


def _standing(done: list[Change]) -> set[int]:
    """Changes that were not taken back by one that stands itself."""
    cancelled: set[int] = set()
    for change in reversed(done):
        if change.undoes is not None and change.revision not in cancelled:
            cancelled.add(change.undoes)
    return {change.revision for change in done} - cancelled


def _last_of(connection: sqlite3.Connection, author: Author, standing: set[int]) -> int:
    """The last change of a session or, if it made none, of an author, that is no undo and stands."""
    rows = connection.execute(
        "SELECT revision, session, author FROM change WHERE action NOT IN ('undo', 'created') ORDER BY revision DESC"
    ).fetchall()
    own = [row for row in rows if row[0] in standing]
    for place, wanted in ((1, author.session), (2, author.name)):
        for row in own:
            if wanted and row[place] == wanted:
                return int(row[0])
    others = f" (the last one, {own[0][0]}, is of {own[0][2]})" if own else ""
    raise EdgeError(
        f"found no change of {author.name} to take back{others}, expected one: name another's by its number"
    )
