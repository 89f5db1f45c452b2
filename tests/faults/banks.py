"""Banks and export folders that somebody edited, damaged or made to harm."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from faults import entries
from faults.case import EITHER, REFUSED, Case, World

ABNORMAL = "reference = (SELECT id FROM reference WHERE kind = 'abnormal')"
# What is run on the file; ? is the bytes of the other column.
STATEMENTS: dict[str, str] = {
    "another format": "PRAGMA user_version = 4",
    "another application": "PRAGMA application_id = 1",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON reference BEGIN DELETE FROM reference; END",
    "a view in the place of a table": "ALTER TABLE setting RENAME TO s; CREATE VIEW setting AS SELECT * FROM s",
    "a table less": "DROP TABLE derived",
    "a column more": "ALTER TABLE reference ADD COLUMN more TEXT",
    "a part that nobody knows": "INSERT INTO part VALUES ('later', 1, 1)",
    "no facts of a model": "DELETE FROM model",
    "another backbone": "UPDATE model SET value = '\"other\"' WHERE name = 'backbone'",
    "facts that are no JSON": "UPDATE model SET value = '{' WHERE name = 'grid'",
    "facts nested deeply": f"UPDATE model SET value = '{'[' * 100_000}' WHERE name = 'grid'",
    "no reference": "UPDATE reference SET removed = 1",
    "no active reference": "UPDATE reference SET active = 0",
    "an unknown kind": "UPDATE reference SET kind = 'other'",
    "an empty kind": "UPDATE reference SET kind = ''",
    "a name of two lines": "UPDATE reference SET name = 'a' || char(10) || 'b' WHERE kind = 'normal'",
    "a name that is a number": "UPDATE reference SET name = CAST(x'ff' AS TEXT) WHERE kind = 'normal'",
    "a name of a million letters": "UPDATE reference SET name = hex(zeroblob(500000)) WHERE kind = 'normal'",
    "thresholds of NaN": "UPDATE setting SET value = '[NaN, NaN]'",
    "thresholds of infinity": "UPDATE setting SET value = '[Infinity, 0.5]'",
    "thresholds of 1e300": "UPDATE setting SET value = '[1e300, 0.5]'",
    "thresholds of text": "UPDATE setting SET value = '[\"a\", 0.5]'",
    "three thresholds": "UPDATE setting SET value = '[0.5, 0.5, 0.5]'",
    "thresholds that are an object": "UPDATE setting SET value = '{}'",
    "thresholds nested deeply": f"UPDATE setting SET value = '{'[' * 100_000}'",
    "thresholds that are no JSON": "UPDATE setting SET value = '['",
    "tokens of NaN": "UPDATE pool SET tokens = ?nan",
    "tokens of infinity": "UPDATE pool SET tokens = ?inf",
    "tokens of 1e38": "UPDATE pool SET tokens = ?big",
    "tokens of zeros": "UPDATE pool SET tokens = zeroblob(length(tokens))",
    "tokens cut": "UPDATE pool SET tokens = substr(tokens, 1, length(tokens) - 4)",
    "no tokens": "UPDATE pool SET tokens = x''",
    "tokens that are text": "UPDATE pool SET tokens = 'text'",
    "a size of a billion": "UPDATE pool SET size = 1000000000",
    "a negative size": "UPDATE pool SET size = -1",
    "a size that is text": "UPDATE pool SET size = 'many'",
    "checksums of zeros": "UPDATE pool SET checks = zeroblob(length(checks))",
    "places outside": "UPDATE pool SET places = zeroblob(length(places))",
    "gains of NaN": "UPDATE pool SET gains = ?nan",
    "gains cut": "UPDATE pool SET gains = x'00'",
    "an unknown role": "UPDATE pool SET role = role || 'x'",
    "no pools": "DELETE FROM pool",
    "no pools of the defect": f"DELETE FROM pool WHERE {ABNORMAL}",
    "proxies of NaN": "UPDATE derived SET data = ?nan",
    "proxies of another shape": "UPDATE derived SET shape = '[1, 1]'",
    "proxies of a shape that is no JSON": "UPDATE derived SET shape = '['",
    "proxies cut": "UPDATE derived SET data = x'00'",
    "no history": "DELETE FROM change",
}
# A word that may be read and answered, as long as nothing else is said of an image than before.
HARMLESS = {"a column more", "no history", "proxies cut", "proxies of another shape", "proxies of NaN",
            "proxies of a shape that is no JSON", "no reference", "no active reference"}  # fmt: skip
# Read when a bank is larger than its limit alone.
UNSEEN = {"a column more", "gains of NaN", "gains cut"}
HARMLESS |= UNSEEN
SPECIAL = {"nan": np.nan, "inf": np.inf, "big": 1e38}


def _spoilt(statement: str) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        path = world.copy(world.bank)
        with closing(sqlite3.connect(path)) as connection, connection:
            for name, value in SPECIAL.items():
                fill = np.full(50_000, value, np.float32).tobytes()
                connection.create_function(f"f_{name}", 1, lambda old, fill=fill: fill[: len(old)])
                column = "gains" if "gains" in statement else "data" if "derived" in statement else "tokens"
                statement_now = statement.replace(f"?{name}", f"f_{name}({column})")
                if statement_now != statement:
                    connection.execute(statement_now)
            if "?" not in statement:
                connection.executescript(statement)
        return path

    return write


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        model = world.copy(world.model)
        path = model.with_name("model.json")
        content = json.loads(path.read_text())
        changed = change(content)
        text = changed if isinstance(changed, str) else json.dumps(content)
        path.write_text(text)
        return model

    return write


def _put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


FACTS = ("backbone", "head", "grid", "image_size", "dim", "num_proxies", "context", "bank_limit")
MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nested deeply": lambda _: "[" * 100_000,
    "no JSON": lambda _: "{",
    "not UTF-8": lambda _: "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"),
    "a list": lambda _: "[]",
    "null": lambda _: "null",
    "another format": _put("format", value=99),
    "a format that is text": _put("format", value="3"),
    "no format": _drop("format"),
    "no files": _drop("files"),
    "files a list": _put("files", value=["model.xml"]),
    "a hash that is a number": _put("files", "model.xml", value=5),
    "a hash that is null": _put("files", "model.xml", value=None),
    "another hash": _put("files", "model.xml", value="0" * 64),
    "a file that climbs out": _put("files", "../../../etc/passwd", value="0" * 64),
    "a file name of 5,000 letters": _put("files", "a" * 5000, value="0" * 64),
    "no compatibility": _drop("compatibility"),
    "compatibility a list": _put("compatibility", value=[]),
    "compatibility null": _put("compatibility", value=None),
    "outputs null": _put("outputs", value=None),
    **{f"{fact} missing": _drop("compatibility", fact) for fact in FACTS},
    **{f"{fact} null": _put("compatibility", fact, value=None) for fact in FACTS},
    **{f"{fact} text": _put("compatibility", fact, value="text") for fact in FACTS},
    **{f"{fact} a list": _put("compatibility", fact, value=[[]]) for fact in FACTS},
}


def _export(change: Callable[[Path], object]) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        model = world.copy(world.model)
        change(model)
        return model

    return write


def cases() -> Iterator[Case]:
    for what, statement in STATEMENTS.items():
        expected = EITHER if what in HARMLESS else REFUSED
        like = entries.shared_bank if what in UNSEEN else None
        yield Case("banks", what, _spoilt(statement), entries.open_bank, expected, like)
    for what, change in MANIFESTS.items():
        yield Case("manifests", what, _manifest(change), entries.open_detector)
    for name in ("model.xml", "model.bin", "model.bank", "model.json", "model.scorer.xml"):
        for what, spoil in (
            ("missing", Path.unlink),
            ("empty", lambda path: path.write_bytes(b"")),
            ("cut", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
            ("a folder", lambda path: (path.unlink(), path.mkdir())),
        ):
            make = _export(lambda model, name=name, spoil=spoil: spoil(model.with_name(name)))
            yield Case("manifests", f"{name} {what}", make, entries.open_detector)
    exported: tuple[tuple[str, Callable[[World], Any]], ...] = (
        ("no path", lambda _: None),
        ("an empty path", lambda _: ""),
        ("a path of bytes", lambda _: b"model.xml"),
        ("a folder as model", lambda world: world.room),
        ("a picture as model", lambda world: shutil.copy(world.references / "normal/0.png", world.room / "m.xml")),
    )
    for what, make_path in exported:
        yield Case("manifests", what, make_path, entries.open_detector)
