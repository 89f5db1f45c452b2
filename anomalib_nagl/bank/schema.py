"""The file of a reference bank: its tables in SQLite, how it is opened, and what its failures mean.

One file, with a rollback journal while it is written: no other file has to be copied with it. It has to lie on a local
disk, since the locks of network drives cannot be trusted (https://www.sqlite.org/faq.html#q5).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from anomalib_nagl.io.errors import EdgeError

FORMAT = 3
APPLICATION = 0x4E41474C  # "NAGL" in the header, by which tools know the file
WAIT = 60  # seconds for another process to finish its change
# A reader has to know these; other parts may be there and are left alone.
PARTS = {"references": 1, "history": 1, "settings": 1}
TABLES = {
    # What the bank is made of. A reader that does not know a needed part, or its version, has to stop.
    "part": "CREATE TABLE part (name TEXT PRIMARY KEY, version INTEGER NOT NULL, needed INTEGER NOT NULL)",
    # Facts of the model that the numbers belong to, as JSON.
    "model": "CREATE TABLE model (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # Thresholds and all else that people change, as JSON.
    "setting": "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "reference": (
        "CREATE TABLE reference (id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, "
        "name TEXT NOT NULL, defect_type TEXT NOT NULL, sha256 TEXT NOT NULL, mask_sha256 TEXT NOT NULL, "
        "localized INTEGER NOT NULL, active INTEGER NOT NULL, removed INTEGER NOT NULL, added TEXT NOT NULL, "
        "author TEXT NOT NULL)"
    ),
    # Images as they were given, and their masks; any of them may be left out.
    "image": (
        "CREATE TABLE image (reference INTEGER NOT NULL REFERENCES reference, role TEXT NOT NULL, "
        "media TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (reference, role))"
    ),
    # Patch tokens of a window of an image that play one part, the most telling first.
    "pool": (
        "CREATE TABLE pool (id INTEGER PRIMARY KEY, reference INTEGER NOT NULL REFERENCES reference, "
        "area TEXT NOT NULL, role TEXT NOT NULL, size INTEGER NOT NULL, content TEXT NOT NULL, "
        "places BLOB NOT NULL, gains BLOB NOT NULL, checks BLOB NOT NULL, tokens BLOB NOT NULL, "
        "UNIQUE (reference, area, role))"
    ),
    # All that is asked of every pool at once, without the pages of its tokens.
    "pool_facts": "CREATE INDEX pool_facts ON pool (reference, area, role, size, content)",
    # What can be computed anew and takes long: valid for one revision alone.
    "derived": (
        "CREATE TABLE derived (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, shape TEXT NOT NULL, "
        "sha256 TEXT NOT NULL, data BLOB NOT NULL)"
    ),
    "change": (
        "CREATE TABLE change (revision INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, author TEXT NOT NULL, "
        "session TEXT NOT NULL, action TEXT NOT NULL, summary TEXT NOT NULL, edits TEXT NOT NULL, undoes INTEGER)"
    ),
    "reference_name": "CREATE UNIQUE INDEX reference_name ON reference (name) WHERE removed = 0",
}


def create(path: Path) -> None:
    """Make an empty bank at ``path``, where nothing is."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _prepare(connection)
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES.values():
            connection.execute(statement)
        connection.executemany("INSERT INTO part VALUES (?, ?, 1)", PARTS.items())
        connection.execute("COMMIT")
    finally:
        connection.close()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, within one state of the bank; EdgeError if it is no bank that can be read."""
    with _explained(path), contextlib.closing(_open_for_reading(path)) as connection:
        connection.execute("BEGIN")
        check_format(connection, path)
        yield connection


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that no other can disturb: all of it is kept, or nothing; EdgeError if that cannot be.

    It waits up to a minute for another one to end.
    """
    with _explained(path), contextlib.closing(_connect(path, "rw")) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            check_format(connection, path)
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a bank without the right to change it.

    A process that was killed in the middle of a change leaves a journal, which only a connection that may write can
    roll back. A medium that nobody can write to has no locks, and needs none.
    """
    mode = "ro&immutable=1" if _is_read_only_medium(path) else "ro"
    connection = _connect(path, mode)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if not path.with_name(path.name + "-journal").exists():
            raise
        with contextlib.closing(_connect(path, "rw")) as healing:
            healing.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection = _connect(path, mode)
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)
    _prepare(connection)
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Nothing that a foreign file holds is run, and broken pages are noticed when they are read.
    for setting in ("trusted_schema=OFF", "cell_size_check=ON", "foreign_keys=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {setting}")


def _is_read_only_medium(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except (AttributeError, OSError):  # Windows has no such call
        return False


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raise EdgeError unless this is a bank of our format, with our tables and nothing that would run."""
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application != APPLICATION:
        raise EdgeError(f"found a database that is no reference bank: {path}, expected one that an export wrote")
    if version != FORMAT:
        raise EdgeError(f"found a reference bank of format {version}: {path}, expected {FORMAT}: migrate it, or update")
    # SQLite takes what is missing of the last page for zeros. Nobody can change the file within a transaction.
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if path.stat().st_size < pages * size:
        raise EdgeError(_reason(path, f"{pages * size - path.stat().st_size} bytes are missing"))
    found = dict(
        connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    )
    missing = [name for name, statement in TABLES.items() if found.get(name) != statement]
    running = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchall()
    if missing or running:
        what = ", ".join([*missing, *(name for (name,) in running)])
        raise EdgeError(f"found a reference bank with other tables than expected ({what}): {path}, copy the file again")
    for name, part_version in connection.execute("SELECT name, version FROM part WHERE needed"):
        if PARTS.get(name) != part_version:
            raise EdgeError(
                f"found a reference bank that needs {name} {part_version}: {path}, expected parts that this version "
                f"knows ({', '.join(PARTS)}): update the program"
            )


def check_integrity(path: Path) -> None:
    """Read a whole file that somebody else made; EdgeError if its structure is broken."""
    with reading(path) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise EdgeError(f"found a damaged reference bank: {path} ({found}), expected a whole one: copy it again")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into a sentence."""
    if not path.is_file():
        raise EdgeError(f"found no reference bank at {path}, expected the one exported with the model: check the path")
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError) as error:
        raise EdgeError(f"{_reason(path, str(error))}") from error


def _reason(path: Path, said: str) -> str:
    if "locked" in said:
        return f"found {path} in use by another program for {WAIT} seconds, expected it to be free: try again"
    if "readonly" in said or "unable to open" in said:
        return (
            f"found no way to write to {path} ({said}), expected a file and a folder that may be changed: check rights"
        )
    if "full" in said:
        return f"found no space left for {path} ({said}), expected some: free disk space; the bank is as it was before"
    return (
        f"found a file that is not a whole reference bank: {path} ({said}; truncated or edited), expected one that an "
        "export or NaglEdge.save wrote: copy it again"
    )
