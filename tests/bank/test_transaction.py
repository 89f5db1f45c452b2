"""Changes of a bank that are kept all at once or not at all, and images that were said to be good or defective."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from bank.test_bank_file import FACTS, lesson, names, path, state

from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.bank.bank_file import BankFile
from anomalib_nagl.bank.border import THRESHOLDS
from anomalib_nagl.bank.transaction import TransactionBank
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File

__all__ = ["path"]  # the fixture
PICTURE = File("image/png", b"bytes of a picture")


def test_all_is_kept_or_nothing(path: Path) -> None:
    bank = TransactionBank(path, FACTS, "Ann")
    first = state(path)

    def change(last: str) -> None:
        with bank.at_once():
            bank.add(lesson("abnormal", "dent 2", 2))
            bank.set_some("thresholds", "another threshold", {THRESHOLDS: [0.6, None]})
            bank.mark("a" * 64, "part 7", "good", PICTURE)
            bank.rename("dent 2", last)

    with pytest.raises(EdgeError, match="name already"):
        change("dent")
    assert (state(path), bank.revision(), bank.marked()) == (first, 1, [])
    change("dent 3")
    assert [one.action for one in bank.history()] == ["created", "add", "thresholds", "mark", "rename"]
    bank.undo(2)  # each of them alone
    assert bank.marked()
    assert names(path) == ["part", "dent"]
    assert bank.snapshot().settings[THRESHOLDS] == [0.6, None]


def test_a_reference_is_copied_as_it_is(path: Path, tmp_path: Path) -> None:
    """As good as one that is ranked and written anew; under another name, and from among the removed ones too."""
    draft = tmp_path / "draft.bank"
    assert TransactionBank(path, FACTS).copy_to(draft) == 1
    tried = TransactionBank(draft, FACTS, "Ann")
    for i in (2, 3):
        tried.add(lesson("abnormal", f"dent {i}", i))
    added = tried.snapshot().references[2:]
    tried.remove("dent 2")
    bank = TransactionBank(path, FACTS, "Bob")
    keys = [bank.copy_from(tried, replace(one, name=f"copied {one.name}")) for one in added]
    assert names(path) == ["part", "dent", "copied dent 2", "copied dent 3"]
    assert bank.files_of(keys[0]) == tried.files_of(added[0].uid)
    assert bank.with_images() == {one.uid for one in bank.snapshot().references}
    assert bank.snapshot().references[2].author == "Ann"
    expected = tmp_path / "expected.bank"
    plain = lesson("normal", "part", 0), *(lesson("abnormal", "dent", i) for i in (1,))
    BankFile.create(expected, FACTS, {THRESHOLDS: [0.5, None]}, plain, None)
    for i in (2, 3):
        BankFile(expected, FACTS).add(lesson("abnormal", f"dent {i}", i))
    assert state(path) == state(expected)


def test_one_threshold_does_not_undo_another(path: Path) -> None:
    bank = TransactionBank(path, FACTS)
    bank.set_some("thresholds", "another threshold", {THRESHOLDS: [0.4, 0.7]})
    bank.set_some("thresholds", "another threshold", {THRESHOLDS: [0.3, None]})
    assert bank.snapshot().settings[THRESHOLDS] == [0.3, 0.7]


def test_a_removed_reference_is_not_changed(path: Path) -> None:
    bank = TransactionBank(path, FACTS)
    uid = bank.snapshot().references[1].uid
    bank.change(uid, "type", "defect_type", "scratch")
    assert bank.snapshot().references[1].defect_type == "scratch"
    bank.remove("dent")
    with pytest.raises(EdgeError, match="removed by somebody else"):
        bank.change(uid, "rename", "name", "other")
    with pytest.raises(EdgeError, match="no reference 'nothing'"):
        bank.change("nothing", "rename", "name", "other")
    with pytest.raises(EdgeError, match="expected a line of text"):
        bank.change(uid, "rename", "name", "two\nlines")


def test_marks_are_kept_taken_back_and_saved(path: Path, tmp_path: Path) -> None:
    bank = TransactionBank(path, FACTS, "Ann")
    bank.mark("a" * 64, "part 7", "good", PICTURE)
    bank.mark("b" * 64, "part 8", "defective", PICTURE)
    bank.mark("a" * 64, "part 7", "defective", PICTURE)
    assert bank.marked() == [Marked("a" * 64, "part 7", "defective"), Marked("b" * 64, "part 8", "defective")]
    assert bank.marked_file("a" * 64) == PICTURE
    bank.undo()
    assert bank.marked()[0].mark == "good"
    bank.undo(2)
    bank.mark("c" * 64, "part 9", None, PICTURE)  # nothing changes
    assert [one.name for one in bank.marked()] == ["part 8"]
    assert bank.revision() == 6
    for images in (True, False):
        saved = tmp_path / f"{images}.bank"
        bank.save(saved, images)
        assert len(TransactionBank(saved, FACTS).marked()) == images
    with pytest.raises(EdgeError, match="expected good, defective, or none"):
        bank.mark("b" * 64, "part 8", "perhaps", PICTURE)
    with pytest.raises(EdgeError, match="no image dddddddddddd"):
        bank.marked_file("d" * 64)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE acceptance SET mark = 'perhaps'")
        connection.commit()
    with pytest.raises(EdgeError, match="expected good or defective"):
        bank.marked()
