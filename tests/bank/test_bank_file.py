"""The file of a bank: what it keeps, what is taken back, several writers, and what is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.environments import ROOT

from anomalib_nagl.bank.adapted import assemble
from anomalib_nagl.bank.bank_file import BankFile, read_model
from anomalib_nagl.bank.border import THRESHOLDS
from anomalib_nagl.bank.old_formats import read_format_2
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import keep, read

GRID, WIDTH = (4, 5), 6
FACTS = {
    "backbone": "none", "head": "none", "grid": list(GRID), "image_size": [40, 50], "dim": WIDTH, "num_proxies": 3,
    "context": True, "shifted_grid": False, "proxies": True, "shared_mining": True, "bank_limit": 30,
}  # fmt: skip


def lesson(kind: str, name: str, seed: int) -> Lesson:
    generator = np.random.default_rng(seed)
    tokens = generator.standard_normal((20, WIDTH)).astype(np.float32)
    marked = np.zeros(20, np.float32)
    if kind != "normal":
        marked[seed % 18 : seed % 18 + 2] = 1
    image = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    reference = Reference(kind, name, "dent" if kind == "abnormal" else "good", localized=kind == "abnormal")
    return Lesson.of(reference, tokens, marked, GRID, keep(image, None if kind == "normal" else np.ones((40, 50))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lessons = [lesson("normal", "part", 0), lesson("abnormal", "dent", 1)]
    BankFile.create(tmp_path / "part.bank", FACTS, {THRESHOLDS: [0.5, None]}, lessons, np.ones((3, WIDTH), np.float32))
    return tmp_path / "part.bank"


def state(path: Path) -> dict[str, list[tuple[float, ...]]]:
    """What a query would be compared with, in an order of its own."""
    bank = BankFile(path, FACTS)
    found = bank.snapshot()
    with bank.read_at_once():
        arrays = assemble(found.patches)
    return {name: sorted(map(tuple, np.atleast_2d(array).tolist())) for name, array in arrays.items()}


def names(path: Path) -> list[str]:
    return [one.name for one in BankFile(path, FACTS).snapshot().references]


def test_a_bank_keeps_what_it_is_given(path: Path) -> None:
    bank = BankFile(path, FACTS, author="ann")
    bank.add(lesson("region", "false alarm", 5))
    found = bank.snapshot()
    assert [(one.kind, one.name, one.defect_type) for one in found.references] == [
        ("normal", "part", "good"), ("abnormal", "dent", "dent"), ("region", "false alarm", "good"),
    ]  # fmt: skip
    assert found.references[2].author == "ann"
    assert found.thresholds.tolist()[0] == 0.5
    assert np.isnan(found.thresholds[1])
    assert found.proxies is None  # they were mined for another revision
    again, given = bank.lesson("dent"), lesson("abnormal", "dent", 1)
    assert {role: pool.key for role, pool in again.pools.items()} == {r: p.key for r, p in given.pools.items()}
    decoded, expected = (read(one.files, "dent") for one in (again, given))
    assert np.array_equal(decoded.image, expected.image)
    assert decoded.mask is not None
    assert len(bank.lesson("false alarm").pools["normal"]) == 2  # its region alone


def test_the_order_of_lessons_and_what_was_forgotten_leave_no_trace(path: Path, tmp_path: Path) -> None:
    bank = BankFile(path, FACTS)
    lessons = {i: lesson("abnormal" if i % 2 else "normal", f"lesson {i}", i) for i in range(2, 12)}
    for one in lessons.values():
        bank.add(one)
    for i in (3, 4, 8):
        bank.remove(f"lesson {i}")
    bank.undo()
    bank.remove("lesson 9")
    other = tmp_path / "other.bank"
    left = [lessons[i] for i in (11, 2, 10, 5, 7, 6, 8)]
    BankFile.create(other, FACTS, {}, [lesson("abnormal", "dent", 1), *left, lesson("normal", "part", 0)], None)
    assert state(path) == state(other)


def test_undo_is_a_change_of_its_own_and_leaves_others_alone(path: Path) -> None:
    ann, bob = BankFile(path, FACTS, author="ann"), BankFile(path, FACTS, author="bob")
    ann.add(lesson("normal", "of ann", 7))
    bob.add(lesson("normal", "of bob", 8))
    before = state(path)
    undone = ann.undo()
    assert (undone.author, undone.summary) == ("ann", "normal of ann")
    assert names(path) == ["part", "dent", "of bob"]
    ann.undo(4)  # the undo itself
    assert state(path) == before
    bob.rename("of bob", "bobs")
    bob.switch("bobs", False)
    assert [one.active for one in bob.snapshot().references][-1] is False
    bob.undo()
    bob.undo()
    assert names(path)[-1] == "of bob"
    assert [change.action for change in ann.history()] == [
        "created", "add", "add", "undo", "undo", "rename", "off", "undo", "undo",
    ]  # fmt: skip
    with pytest.raises(EdgeError, match="no change of carl to take back"):
        BankFile(path, FACTS, author="carl").undo()
    with pytest.raises(EdgeError, match="taken back already"):
        bob.undo(7)


def test_what_was_changed_again_since_is_not_taken_back(path: Path) -> None:
    ann, bob = BankFile(path, FACTS, author="ann"), BankFile(path, FACTS, author="bob")
    ann.set("thresholds", thresholds=[0.6, 0.6])
    bob.set("thresholds", thresholds=[0.7, 0.6])
    with pytest.raises(EdgeError, match="changed again since"):
        ann.undo()
    assert bob.snapshot().settings["thresholds"] == [0.7, 0.6]
    ann.add(lesson("normal", "one", 9))
    ann.remove("one")
    bob.add(lesson("normal", "one", 10))
    with pytest.raises(EdgeError, match="of that name already"):
        ann.undo()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bank: bank.remove("prat"), "no reference named 'prat', expected one of 'part', 'dent'.*mean 'part'"),
        (lambda bank: bank.rename("part", "dent"), "of that name already"),
        (lambda bank: bank.rename("part", "two\nlines"), "expected a line of text"),
        (lambda bank: bank.add(lesson("normal", "part", 3)), "of that name already"),
        (lambda bank: [bank.switch("part", False), bank.remove("dent")], "without a single normal patch"),
        (lambda bank: bank.undo(1), "no change 1 to take back"),
        (lambda bank: bank.undo(99), "no change 99 to take back"),
    ],
)
def test_what_cannot_be_changed_says_why_and_changes_nothing(
    path: Path, change: Callable[[BankFile], object], message: str
) -> None:
    with pytest.raises(EdgeError, match=message):
        change(BankFile(path, FACTS))
    assert names(path) == ["part", "dent"]


TEACH = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from bank.test_bank_file import FACTS, lesson
from anomalib_nagl.bank.bank_file import BankFile
bank = BankFile(sys.argv[1], FACTS, author=sys.argv[2])
for i in range(20):
    bank.add(lesson("abnormal", f"{{sys.argv[2]}} {{i}}", int(sys.argv[2]) * 100 + i))
    print(i, flush=True)
"""


@pytest.fixture
def teach(path: Path) -> Callable[[int], subprocess.Popen[str]]:
    code = TEACH.format(root=str(ROOT), tests=str(ROOT / "tests"))
    return lambda number: subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(number)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_ten_processes_that_teach_at_once_lose_nothing(
    path: Path, teach: Callable[[int], subprocess.Popen[str]]
) -> None:
    running = [teach(number) for number in range(10)]
    assert [process.wait(300) for process in running] == [0] * 10
    assert set(names(path)) == {"part", "dent", *(f"{number} {i}" for number in range(10) for i in range(20))}
    assert BankFile(path, FACTS).revision() == 201


def test_a_killed_process_loses_nothing_that_it_was_told_is_kept(
    path: Path, teach: Callable[[int], subprocess.Popen[str]]
) -> None:
    process = teach(0)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(5)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    assert {f"0 {i}" for i in acknowledged} <= set(names(path))
    BankFile(path, FACTS).add(lesson("normal", "later", 3))


def test_a_change_that_was_cut_short_is_rolled_back_by_the_next_reader(path: Path) -> None:
    before = state(path)
    code = f"""
import os, sqlite3
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE pool SET tokens = zeroblob(400000)")
os.abort()
"""
    subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    assert path.with_name(path.name + "-journal").exists()
    assert state(path) == before


def spoil(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, "found no reference bank at"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "truncated or edited"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "1 bytes are missing; truncated or edited"),
        (lambda path: path.write_bytes(b"nothing of the kind" * 99), "truncated or edited"),
        (spoil("PRAGMA application_id = 7"), "a database that is no reference bank"),
        (spoil("PRAGMA user_version = 4"), "a reference bank of format 4.*expected 3"),
        (spoil("DROP TABLE derived"), r"other tables than expected \(derived\)"),
        (
            spoil("CREATE TRIGGER t AFTER INSERT ON change BEGIN DELETE FROM reference; END"),
            r"tables than expected \(t\)",
        ),
        (spoil("INSERT INTO part VALUES ('holograms', 1, 1)"), "needs holograms 1.*update the program"),
        (spoil("UPDATE part SET version = 2 WHERE name = 'history'"), "needs history 2"),
        (spoil("UPDATE model SET value = '[9, 9]' WHERE name = 'grid'"), r"grid \[9, 9\] instead of \[4, 5\]"),
        (spoil("UPDATE model SET value = '{' WHERE name = 'grid'"), "found grid in the reference bank"),
        (spoil("UPDATE reference SET kind = 'odd' WHERE id = 1"), "of kind 'odd', expected one of normal"),
        (spoil("UPDATE pool SET tokens = zeroblob(length(tokens))"), "not as they were written"),
        (spoil("UPDATE pool SET tokens = x'00'"), "not as they were written"),
        (spoil("UPDATE pool SET size = 3 WHERE role = 'marked'"), "3 marked, .*20 at most"),
        (spoil("UPDATE pool SET size = 1 WHERE role = 'marked'"), "not as they were written"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(path: Path, change: Callable[[Path], None], message: str) -> None:
    BankFile(path, FACTS).add(lesson("normal", "more", 3))  # beyond the limit: gains count
    change(path)
    with pytest.raises(EdgeError, match=message):
        state(path)


def test_parts_that_are_not_needed_are_left_alone(path: Path) -> None:
    spoil("INSERT INTO part VALUES ('holograms', 1, 0)")(path)
    spoil("CREATE TABLE hologram (id INTEGER)")(path)
    assert names(path) == ["part", "dent"]


def test_saving_leaves_history_and_images_out(path: Path, tmp_path: Path) -> None:
    bank = BankFile(path, FACTS)
    bank.add(lesson("normal", "more", 3))
    bank.remove("more")
    bank.save(tmp_path / "lean.bank", images=False)
    assert state(path) == state(tmp_path / "lean.bank")
    lean = BankFile(tmp_path / "lean.bank", FACTS)
    assert [change.action for change in lean.history()] == ["created"]
    assert lean.lesson("part").files == {}
    with pytest.raises(EdgeError, match="no image of reference 'part' in the bank"):
        read(lean.lesson("part").files, "part")


def test_loading_is_one_change(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bank"
    BankFile.create(other, FACTS, {THRESHOLDS: [0.1, 0.2]}, [lesson("normal", "another", 4)], None)
    bank, before = BankFile(path, FACTS), state(path)
    bank.load(other)
    assert names(path) == ["another"]
    assert bank.snapshot().settings[THRESHOLDS] == [0.1, 0.2]
    bank.undo()
    assert state(path) == before
    assert bank.snapshot().settings[THRESHOLDS] == [0.5, None]


BANKS = Path(__file__).parent / "banks"


def test_a_bank_of_this_format_stays_readable() -> None:
    path = BANKS / "format_3.bank"
    bank = BankFile(path, read_model(path))
    assert [(one.kind, one.name) for one in bank.snapshot().references] == [
        ("normal", "part"), ("abnormal", "dent"), ("region", "false alarm"),
    ]  # fmt: skip
    assert [change.action for change in bank.history()] == ["created", "add", "add", "undo"]
    assert bank.snapshot().thresholds.tolist() == [0.5, 0.25]
    assert read(bank.lesson("dent").files, "dent").image.shape == (3, 40, 50)
    with bank.read_at_once():
        assert len(assemble(bank.snapshot().patches)["normal_bank"]) == 20 + 2 + 12


def test_a_bank_of_format_2_stays_readable() -> None:
    old = read_format_2(BANKS / "format_2.safetensors")
    assert [(one.reference.kind, one.reference.name) for one in old.lessons] == [
        ("normal", "part"),
        ("abnormal", "dent"),
    ]
    assert [len(pool) for pool in old.lessons[1].pools.values()] == [2, 6, 12]
    assert old.thresholds == [0.5, 0.25]
    with pytest.raises(EdgeError, match="truncated or edited"):
        read_format_2(BANKS / "format_3.bank")
