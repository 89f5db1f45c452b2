"""References copied from one bank of a model to another as they are stored, without ranking their patches again."""

from __future__ import annotations

import sqlite3

from anomalib_nagl.bank.history import Author
from anomalib_nagl.bank.moment_rows import TABLE
from anomalib_nagl.bank.reference import Reference
from anomalib_nagl.bank.reference_rows import insert_facts

_POOL = "area, role, size, content, places, gains, checks, tokens"


def copy_reference(
    source: sqlite3.Connection, target: sqlite3.Connection, uid: str, one: Reference, author: Author
) -> Reference:
    """Copy patches and files of the reference ``uid``, removed or not, under the facts of ``one`` and a new key."""
    number, added = insert_facts(target, one, author)
    wanted = f"SELECT pool.id, {_POOL} FROM pool JOIN reference ON reference.id = pool.reference WHERE uid = ?"
    summed = source.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'moment'").fetchone()
    target.execute(TABLE)
    for row, *cells in source.execute(wanted, (uid,)).fetchall():
        places = ", ".join("?" * (len(cells) + 1))
        new = target.execute(f"INSERT INTO pool (reference, {_POOL}) VALUES ({places})", (number, *cells)).lastrowid
        if summed and (moments := source.execute("SELECT data FROM moment WHERE pool = ?", (row,)).fetchone()):
            target.execute("INSERT INTO moment VALUES (?, ?)", (new, moments[0]))
    files = source.execute(
        "SELECT role, media, data FROM image JOIN reference ON reference.id = image.reference WHERE uid = ?", (uid,)
    )
    target.executemany("INSERT INTO image VALUES (?, ?, ?, ?)", ((number, *file) for file in files))
    return added
