"""Numbers, names and fields that cannot be in a bank: refused when they come in, and when they are read."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bank.test_bank_file import FACTS, GRID, WIDTH, lesson, path, spoil, state

from anomalib_nagl.bank.bank_file import BankFile, read_model
from anomalib_nagl.bank.border import THRESHOLDS, check_names
from anomalib_nagl.bank.derived import write
from anomalib_nagl.bank.pool_rows import checksums
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.io.errors import EdgeError

__all__ = ["path"]  # the fixture
IMPOSSIBLE = [math.nan, math.inf, -math.inf, 1e38]


def rewrite(where: str, change: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[Path], None]:
    """Change tokens and places of pools, their checksums with them."""

    def spoilt(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for row, size, tokens, places in connection.execute(
                f"SELECT id, size, tokens, places FROM pool WHERE {where}"
            ).fetchall():
                numbers = np.frombuffer(tokens, "<f4").reshape(size, WIDTH).copy()
                found = np.frombuffer(places, "<u2").copy()
                change(numbers, found)
                stored = numbers.tobytes(), found.tobytes()
                values = (*stored, checksums(*stored, size), row)
                connection.execute("UPDATE pool SET tokens = ?, places = ?, checks = ? WHERE id = ?", values)

    return spoilt


def filled(value: float, all_of_them: bool) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(tokens: np.ndarray, places: np.ndarray) -> None:
        tokens[slice(None) if all_of_them else 0] = value

    return change


def assert_refused(path: Path, message: str) -> None:
    """On reading it, and on taking it over into another bank, which stays as it is."""
    other = path.with_name("other.bank")
    bank = BankFile.create(other, FACTS, {THRESHOLDS: [0.5, None]}, [lesson("normal", "part", 9)], None)
    before = state(other)
    with pytest.raises(EdgeError, match=f"found .*{message}"):
        bank.load(path)
    assert state(other) == before
    with pytest.raises(EdgeError, match=f"found .*{message}"):
        state(path)


@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("all_of_them", [False, True])
@pytest.mark.parametrize("role", ["normal", "marked", "away"])
def test_tokens_that_cannot_be(value: float, all_of_them: bool, role: str, path: Path) -> None:
    rewrite(f"role = '{role}'", filled(value, all_of_them))(path)
    assert_refused(path, r"patch tokens from .* expected numbers of at most 1e\+12")


def test_gains_that_no_ranking_gives(path: Path) -> None:
    BankFile(path, FACTS).add(lesson("normal", "more", 3))  # beyond the limit: gains count
    for spoilt, message in (
        (np.full(20, math.nan), "no ranking gives"),
        (np.full(20, math.inf), "no ranking gives"),
        (np.full(20, -1.0), "no ranking gives"),
        (np.arange(20.0), "no ranking gives"),
        (np.zeros(19), "not as they were written"),
    ):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE pool SET gains = ?, checks = substr(checks, 1, 8) WHERE role = 'normal'",
                (spoilt.astype("<f4").tobytes(),),
            )
        with pytest.raises(EdgeError, match=message):
            state(path)


def test_gains_have_a_checksum(path: Path) -> None:
    BankFile(path, FACTS).add(lesson("normal", "more", 3))
    spoil("UPDATE pool SET gains = zeroblob(length(gains)) WHERE role = 'normal'")(path)
    with pytest.raises(EdgeError, match="not as they were written"):
        state(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite("role = 'marked'", lambda tokens, places: places.fill(999)), "places that cannot be"),
        (rewrite("role = 'marked'", lambda tokens, places: places.fill(1)), "places that cannot be"),
        (spoil("UPDATE pool SET size = 0, tokens = x'', places = x'' WHERE role = 'marked'"), "0 marked"),
        (spoil("UPDATE pool SET size = 0, tokens = x'', places = x'' WHERE role = 'normal'"), "0 normal"),
        (spoil("UPDATE pool SET size = 'few' WHERE role = 'normal'"), "not as they were written"),
        (spoil("UPDATE pool SET content = 5 WHERE id = 1"), "patch"),
        (spoil("UPDATE pool SET content = x'00' WHERE id = 1"), "not as they were written"),
        (spoil("DELETE FROM pool WHERE role = 'marked'"), "expected marked and away and near"),
        (spoil("DELETE FROM pool WHERE role = 'near'"), "expected marked and away and near"),
        (spoil("UPDATE pool SET role = 'odd' WHERE role = 'normal'"), "20 odd as patches"),
        (spoil("UPDATE reference SET kind = 'abnormal'"), "20 normal as patches of the abnormal"),
        (spoil("UPDATE reference SET kind = 'normal'"), "as patches of the normal reference"),
        (spoil("UPDATE reference SET kind = 'odd'"), "of kind 'odd'"),
        (spoil("UPDATE reference SET kind = ''"), "of kind ''"),
        (spoil("UPDATE reference SET name = '' WHERE id = 1"), "name ''"),
        (spoil("UPDATE reference SET name = x'FF' WHERE id = 1"), r"name .*\(bytes\)"),
        (spoil("UPDATE reference SET name = 'a' || char(10) WHERE id = 1"), "expected a line of text"),
        (spoil("UPDATE reference SET name = replace(hex(zeroblob(600)), '00', 'nn') WHERE id = 1"), "1 to 1000"),
        (spoil("UPDATE reference SET defect_type = x'00'"), "defect type"),
        (spoil("UPDATE reference SET sha256 = 'abc'"), "hash 'abc'"),
        (spoil("UPDATE reference SET author = x'00'"), "author"),
        (spoil("UPDATE setting SET value = '[NaN, 1]'"), "NaN is no number"),
        (spoil("UPDATE setting SET value = '[Infinity, 1]'"), "Infinity is no number"),
        (spoil("UPDATE setting SET value = '[1e999, 1]'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = '[1e38, 1]'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = '[true, 1]'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = '[\"1\", 1]'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = '[1]'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = '7'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = 'null'"), "thresholds .*expected two finite numbers"),
        (spoil("UPDATE setting SET value = x'FF'"), "cannot be read"),
        (spoil("UPDATE model SET value = replace(hex(zeroblob(50000)), '0', '[') WHERE name = 'dim'"), "too deeply"),
        (spoil("UPDATE model SET value = 'null' WHERE name = 'grid'"), "grid None instead of"),
        (spoil("DELETE FROM model WHERE name = 'dim'"), "dim None instead of"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be(change: Callable[[Path], None], message: str, path: Path) -> None:
    change(path)
    if message != "patch":
        assert_refused(path, message)
        return
    state(path)  # SQLite turns a number into text here


def test_two_references_of_one_name() -> None:
    check_names([one := Reference("normal", "part"), Reference("normal", "other")])
    with pytest.raises(EdgeError, match="found two references of the name 'part'"):
        check_names([one, Reference("abnormal", "part")])


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_proxies_that_cannot_be_are_mined_anew(value: float, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        write(connection, 1, np.full((3, WIDTH), value, np.float32))
    assert BankFile(path, FACTS).snapshot().proxies is None
    spoil("UPDATE derived SET data = 'text'")(path)
    assert BankFile(path, FACTS).snapshot().proxies is None


@pytest.mark.parametrize(
    "edits",
    ["7", "null", "[7]", "[[1, 2]]", '[["reference", "x", "name", 5, 6]]', '[["part", "x", "name", "a", "b"]]', 
     "[[[]]]", '[["setting", "thresholds", "value", [1], [2]]]', "{"],
)  # fmt: skip
def test_a_history_that_cannot_be_is_not_taken_back(edits: str, path: Path) -> None:
    bank = BankFile(path, FACTS)
    bank.set("thresholds", thresholds=[0.6, 0.6])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE change SET edits = ? WHERE revision = 2", (edits,))
    with pytest.raises(EdgeError, match=r"found (change 2|a change of part) .*expected"):
        bank.undo()


def test_what_is_taken_back_is_looked_at(path: Path) -> None:
    bank = BankFile(path, FACTS)
    bank.set("thresholds", thresholds=[0.6, 0.6])
    spoil("UPDATE change SET edits = replace(edits, '[0.5, null]', '[1e999, null]') WHERE revision = 2")(path)
    with pytest.raises(EdgeError, match="expected two finite numbers"):
        bank.undo()
    assert bank.snapshot().settings[THRESHOLDS] == [0.6, 0.6]


def made(kind: str = "normal", name: str = "new", fill: float = 0.5, width: int = WIDTH, marks: int = 2) -> Lesson:
    tokens = np.full((20, width), fill, np.float32)
    return Lesson.of(Reference(kind, name), tokens, (np.arange(20) < marks).astype(np.float32), GRID)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[(made(fill=value), "patch tokens from") for value in IMPOSSIBLE],
        (made(width=WIDTH + 1), "expected a width of 6"),
        (made("abnormal", marks=0), "0 marked"),
        (made("region", marks=0), "0 normal"),
        (replace(made(), pools={}), "none as patches"),
        (replace(made(), pools=made("abnormal").pools), "as patches of the normal reference"),
    ],
)
def test_lessons_that_cannot_be_do_not_come_in(wrong: Lesson, message: str, path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(EdgeError, match=f"found .*{message}"):
        BankFile(path, FACTS).add(wrong)
    assert path.read_bytes() == before
    with pytest.raises(EdgeError, match=f"found .*{message}"):
        BankFile.create(tmp_path / "new.bank", FACTS, {}, [wrong], None)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38, "1", True, [1], 1j])
def test_thresholds_that_cannot_be_do_not_come_in(value: Any, path: Path) -> None:
    with pytest.raises(EdgeError, match="expected two finite numbers"):
        BankFile(path, FACTS).set("thresholds", thresholds=[value, 1.0])
    assert BankFile(path, FACTS).snapshot().settings[THRESHOLDS] == [0.5, None]


@pytest.mark.parametrize("name", [5, b"part", ["part"], Path("part"), math.nan, None, "two\nlines", "n" * 1001])
@pytest.mark.parametrize("what", ["name", "defect_type"])
def test_names_that_are_no_line_of_text(name: Any, what: str) -> None:
    with pytest.raises(EdgeError, match="expected a line of text of 1 to 1000 characters"):
        Reference(**{"kind": "normal", "name": "part", what: name})


def facts(**others: object) -> list[tuple[str, str]]:
    return [(name, json.dumps(value)) for name, value in {**FACTS, **others}.items()]


@pytest.mark.parametrize(
    "others",
    [{"grid": None}, {"grid": [4]}, {"grid": [0, 4]}, {"grid": [4, "5"]}, {"grid": [4.0, 5]}, {"grid": [999, 999]}, 
     {"dim": -1}, {"dim": "6"}, {"dim": True}, {"num_proxies": 0}, {"image_size": [1, 2, 3]}, {"bank_limit": 0},
     {"context": 1}],
)  # fmt: skip
def test_facts_of_a_model_that_cannot_be(others: dict[str, object], path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT OR REPLACE INTO model VALUES (?, ?)", facts(**others))
    with pytest.raises(EdgeError, match=r"found facts of a model in .*expected"):
        read_model(path)
