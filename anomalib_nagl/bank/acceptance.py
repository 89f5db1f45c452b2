"""Images that a person said are good or defective: kept in the bank, to be scored again after every lesson.

They lie in a table of their own, which a reader that does not know it leaves alone.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from anomalib_nagl.bank import history, schema
from anomalib_nagl.bank.history import Author, Edit
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File

GOOD, DEFECTIVE = "good", "defective"
TABLE = (
    "CREATE TABLE IF NOT EXISTS acceptance (sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, mark TEXT, "
    "media TEXT NOT NULL, data BLOB NOT NULL, at TEXT NOT NULL, author TEXT NOT NULL)"
)


class Marked(NamedTuple):
    """An image by the SHA-256 of its file, and what it is said to be: ``good`` or ``defective``."""

    sha256: str
    name: str
    mark: str


def marked_of(connection: sqlite3.Connection) -> list[Marked]:
    """All marked images, the oldest first."""
    if not _exists(connection):
        return []
    rows = connection.execute("SELECT sha256, name, mark FROM acceptance WHERE mark IS NOT NULL ORDER BY rowid")
    found = [Marked(*row) for row in rows]
    for one in found:
        if one.mark not in (GOOD, DEFECTIVE) or not all(isinstance(text, str) for text in one):
            raise EdgeError(
                f"found an acceptance set in the bank with the mark {str(one.mark)[:40]!r}, expected good or "
                "defective: restore the bank from a copy"
            )
    return found


def file_of(connection: sqlite3.Connection, sha256: str) -> File:
    """The file of a marked image; EdgeError where there is none."""
    row = None
    if _exists(connection):
        row = connection.execute("SELECT media, data FROM acceptance WHERE sha256 = ?", (sha256,)).fetchone()
    if row is None or not isinstance(row[0], str) or not isinstance(row[1], bytes):
        raise EdgeError(f"found no image {sha256[:12]} in the acceptance set, expected one that was marked: mark it")
    return File(*row)


def mark(
    connection: sqlite3.Connection, sha256: str, name: str, said: str | None, file: File, author: Author
) -> list[Edit]:
    """Say what an image is, or None to say nothing of it any more; returns what was changed."""
    if said not in (None, GOOD, DEFECTIVE):
        raise EdgeError(f"found the mark {str(said)[:40]!r}, expected good, defective, or none")
    connection.execute(TABLE)
    row = (sha256, name, file.media, file.data, history.now(), author.name)
    connection.execute("INSERT OR IGNORE INTO acceptance VALUES (?, ?, NULL, ?, ?, ?, ?)", row)
    (before,) = connection.execute("SELECT mark FROM acceptance WHERE sha256 = ?", (sha256,)).fetchone()
    edits = [] if before == said else [Edit("acceptance", sha256, "mark", before, said)]
    for edit in edits:
        history.apply(connection, edit)
    return edits


def unmarked_of(connection: sqlite3.Connection) -> frozenset[str]:
    """Hashes of the images whose mark was taken back."""
    if not _exists(connection):
        return frozenset()
    return frozenset(sha256 for (sha256,) in connection.execute("SELECT sha256 FROM acceptance WHERE mark IS NULL"))


def take(connection: sqlite3.Connection, source: Path, author: Author) -> list[Edit]:
    """Mark what a bank at another place marks, where nothing is said of it yet; returns what was changed."""
    known, edits = {one.sha256 for one in marked_of(connection)}, list[Edit]()
    with schema.reading(source) as other:
        for one in marked_of(other):
            if one.sha256 not in known:  # one file after the other: they may be many
                file = file_of(other, one.sha256)
                edits += mark(connection, one.sha256, one.name, one.mark, file, author)
    return edits


def copy(source: Path, target: Path) -> None:
    """Take the marked images of a bank over into another one, as they are; those that are there already stay."""
    with schema.reading(source) as known, schema.writing(target) as connection:
        if _exists(known):
            connection.execute(TABLE)
            rows = known.execute("SELECT * FROM acceptance WHERE mark IS NOT NULL ORDER BY rowid")
            connection.executemany("INSERT OR IGNORE INTO acceptance VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _exists(connection: sqlite3.Connection) -> bool:
    wanted = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'acceptance'"
    return bool(connection.execute(wanted).fetchone()[0])
