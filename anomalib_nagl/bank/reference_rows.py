"""References as rows of the file of a bank."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

from anomalib_nagl.bank import history
from anomalib_nagl.bank.border import check_lesson, check_names
from anomalib_nagl.bank.history import Author
from anomalib_nagl.bank.moment_rows import insert_moments
from anomalib_nagl.bank.pool_rows import PoolReader, StoredPool, insert_pool
from anomalib_nagl.bank.reference import WHOLE, Lesson, Reference, check_text
from anomalib_nagl.bank.views import cells_of
from anomalib_nagl.io.errors import EdgeError, suggest
from anomalib_nagl.io.given import IMAGE, MASK, File

_FACTS = "kind, name, defect_type, sha256, mask_sha256, localized, active, added, author, uid"


def references_of(connection: sqlite3.Connection) -> tuple[Reference, ...]:
    """All that are not removed, in the order in which they were added."""
    rows = connection.execute(f"SELECT {_FACTS} FROM reference WHERE NOT removed ORDER BY id")
    found = tuple(_reference(*row) for row in rows)
    check_names(found)
    return found


def removed_of(connection: sqlite3.Connection) -> tuple[Reference, ...]:
    """All that were removed and may come back."""
    return tuple(_reference(*row) for row in connection.execute(f"SELECT {_FACTS} FROM reference WHERE removed"))


def _reference(*row: Any) -> Reference:
    kind, name, defect_type, sha256, mask_sha256, localized, active, added, author, uid = row
    return Reference(kind, name, defect_type, sha256, mask_sha256, bool(localized), bool(active), added, author, uid)


def named(connection: sqlite3.Connection, name: str) -> Reference:
    """The reference of a name; EdgeError if there is none."""
    check_text("name", name)
    found = references_of(connection)
    one = next((one for one in found if one.name == name), None)
    if one is None:
        names = [one.name for one in found]
        raise EdgeError(
            f"found no reference named {name!r}, expected one of {', '.join(map(repr, names[:20]))}: check the name"
            f"{suggest(name, names)}"
        )
    return one


def reference_of(connection: sqlite3.Connection, uid: str) -> Reference:
    """The reference of a key, removed or not; EdgeError if there is none."""
    row = connection.execute(f"SELECT {_FACTS} FROM reference WHERE uid = ?", (uid,)).fetchone()
    if row is None:
        raise EdgeError(f"found no reference {uid[:40]!r} in the bank, expected one of its keys: load the list again")
    return _reference(*row)


def insert(connection: sqlite3.Connection, lesson: Lesson, author: Author) -> Reference:
    """Write a reference with its patches and files."""
    number, added = insert_facts(connection, lesson.reference, author)
    for role, pool in lesson.pools.items():
        insert_moments(connection, insert_pool(connection, number, WHOLE, role, pool), pool.moments)
    files = [(number, role, file.media, file.data) for role, file in lesson.files.items()]
    connection.executemany("INSERT INTO image VALUES (?, ?, ?, ?)", files)
    return added


def insert_facts(connection: sqlite3.Connection, one: Reference, author: Author) -> tuple[int, Reference]:
    """Write what is known of a reference, under a new key; returns the number of its row too."""
    row = (
        one.kind, one.name, one.defect_type, one.sha256, one.mask_sha256, one.localized, one.active,
        one.added or history.now(), one.author or author.name, uuid.uuid4().hex,
    )  # fmt: skip
    places = ", ".join("?" * len(row))
    cursor = connection.execute(f"INSERT INTO reference ({_FACTS}, removed) VALUES ({places}, 0)", row)
    return int(cursor.lastrowid or 0), _reference(*row)


def pools_of(connection: sqlite3.Connection, reader: PoolReader) -> dict[str, dict[str, StoredPool]]:
    """All pools that are compared with, by the uid of their reference and by role."""
    found: dict[str, dict[str, StoredPool]] = {}
    for uid, role, row, size, key in connection.execute(
        "SELECT uid, role, pool.id, size, content FROM pool JOIN reference ON reference.id = pool.reference "
        "WHERE active AND NOT removed AND area = ?", (WHOLE,),
    ):  # fmt: skip
        found.setdefault(uid, {})[role] = StoredPool(reader, row, size, key)
    return found


def lesson_of(connection: sqlite3.Connection, one: Reference, facts: Mapping[str, Any], images: bool = True) -> Lesson:
    """A reference with all its patches and its files."""
    reader = PoolReader(lambda: contextlib.nullcontext(connection), int(facts["dim"]), cells_of(facts))
    pools = {}
    with reader:
        for role, row, size, key in connection.execute(
            "SELECT role, pool.id, size, content FROM pool JOIN reference ON reference.id = pool.reference "
            "WHERE uid = ? AND area = ?", (one.uid, WHOLE),
        ).fetchall():  # fmt: skip
            pools[role] = StoredPool(reader, row, size, key).whole()
    wanted = "SELECT role, media, data FROM image JOIN reference ON reference.id = image.reference WHERE uid = ?"
    rows = connection.execute(wanted, (one.uid,)) if images else ()
    lesson = Lesson(one, pools, {role: _file(one, role, media, data) for role, media, data in rows})
    check_lesson(lesson, facts)
    return lesson


def _file(one: Reference, role: object, media: object, data: object) -> File:
    if role not in (IMAGE, MASK) or not isinstance(media, str) or not isinstance(data, bytes):
        raise EdgeError(
            f"found a file of reference {one.name!r} in the bank that is none ({str(role)[:40]}), expected an image or "
            "a mask: restore the bank from a copy"
        )
    return File(media, data)


def check_usable(connection: sqlite3.Connection) -> None:
    """Raise EdgeError unless a normal patch is left to compare with."""
    (left,) = connection.execute(
        "SELECT coalesce(sum(size), 0) FROM pool JOIN reference ON reference.id = pool.reference "
        "WHERE active AND NOT removed AND role != 'marked'"
    ).fetchone()
    if not left:
        raise EdgeError(
            "found references without a single normal patch, expected at least one: add a normal reference first"
        )
