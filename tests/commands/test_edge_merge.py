"""What several boxes were taught, as one bank, and what tells two banks apart."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.commands import nagl
from support.exported import PICTURE, picture, pixels, teach

from anomalib_nagl.bank.transaction import TransactionBank
from anomalib_nagl.edge import EdgeError, NaglEdge
from anomalib_nagl.edge.merging import differences, merge
from anomalib_nagl.edge.migration import migrate
from anomalib_nagl.io.given import File


@pytest.fixture
def boxes(exported: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two boxes of one model, taught apart."""
    other = shutil.copytree(exported.parent, tmp_path / "other") / "model.xml"
    first, second = NaglEdge(exported), NaglEdge(other)
    for detector in (first, second):
        teach(detector, "abnormal", 1)
    teach(first, "normal", 1)
    teach(second, "abnormal", 2)
    second.add_normal(pixels(picture(PICTURE, 55)), "normal 1")  # another image of that name
    second.rename("abnormal 1", "scratch")
    second.switch("normal 0", False)
    second.set_thresholds(image=0.6)
    second.set_region(np.arange(12).reshape(3, 4) < 8)
    return exported, other


def test_a_merged_bank_has_everything_once_and_scores_as_one_that_was_taught_all(
    boxes: tuple[Path, Path], tmp_path: Path
) -> None:
    done = merge(boxes, tmp_path / "all.bank")
    assert list(done.given.values()) == [4, 2]
    merged = NaglEdge(boxes[0], bank=tmp_path / "all.bank")
    assert [one.name for one in merged.references] == [
        "normal 0", "abnormal 0", "abnormal 1", "normal 1", "abnormal 2", "normal 1 (2)"
    ]  # fmt: skip
    said = "\n".join(done.conflicts)
    for words in (
        f"name of abnormal 1: abnormal 1 in {boxes[0]}, scratch in {boxes[1]}",
        f"active of normal 0: True in {boxes[0]}, False in {boxes[1]}",
        f"normal 1 of {boxes[1]} is another image than that of an earlier bank: it is called normal 1 (2)",
        f"thresholds or scales of {boxes[1]} differ",
        f"the region of {boxes[1]} differ",
    ):
        assert words in said
    assert len(done.conflicts) == 5
    assert merged.thresholds.image == 0.5
    assert merged.region is None
    taught = NaglEdge(boxes[0])
    teach(taught, "abnormal", 2)
    taught.add_normal(pixels(picture(PICTURE, 55)), "another")
    image = pixels(picture(PICTURE, 71, True))
    assert merged.predict(image).score == pytest.approx(taught.predict(image).score, abs=1e-6)
    other = merge(boxes, tmp_path / "other.bank", thresholds=1, region=1)
    chosen = NaglEdge(boxes[0], bank=tmp_path / "other.bank")
    assert chosen.thresholds.image == 0.6
    assert np.array_equal(chosen.region, NaglEdge(boxes[1]).region)
    assert f"thresholds or scales of {boxes[0]} differ" in "\n".join(other.conflicts)


def test_what_was_removed_in_one_box_is_named(boxes: tuple[Path, Path], tmp_path: Path) -> None:
    NaglEdge(boxes[0]).remove("abnormal 1")
    done = merge(boxes, tmp_path / "all.bank")
    assert f"scratch of {boxes[1]} was removed in {boxes[0]}: it is kept" in done.conflicts
    lines = differences(*boxes)
    assert f"only in {boxes[1]}: abnormal scratch (defect) (removed in the other)" in lines
    assert f"only in {boxes[0]}: normal normal 1 (good)" in lines
    assert "setting region differs" in lines
    assert "setting thresholds differs: [0.5, 0.5] and [0.6, 0.5]" in lines
    assert differences(boxes[0], boxes[0]) == []


def mark(model: Path, number: int, said: str | None, name: str = "") -> None:
    """Say what an image is."""
    data = f"bytes of picture {number}".encode()
    detector = NaglEdge(model)
    bank = TransactionBank(detector.bank, detector.compatibility, "Ann")
    bank.mark(hashlib.sha256(data).hexdigest(), name or f"{number}.png", said, File("image/png", data))


def marks(bank: Path, model: Path) -> dict[str, str]:
    """The acceptance set of a bank, each with the file that belongs to it."""
    file = TransactionBank(bank, NaglEdge(model).compatibility)
    for one in file.marked():
        assert hashlib.sha256(file.marked_file(one.sha256).data).hexdigest() == one.sha256
    return {one.name: one.mark for one in file.marked()}


@pytest.fixture
def marked(boxes: tuple[Path, Path]) -> tuple[Path, Path]:
    """Both have an acceptance set; they agree about 1, and not about 2; the first takes the mark of 4 back."""
    for number, said in ((1, "good"), (2, "good"), (4, "good"), (4, None)):
        mark(boxes[0], number, said)
    for number, said in ((1, "good"), (2, "defective"), (3, "defective"), (4, "good")):
        mark(boxes[1], number, said, "other.png" if number == 1 else "")
    return boxes


def test_the_acceptance_set_is_merged_and_compared(marked: tuple[Path, Path], tmp_path: Path) -> None:
    done = merge(marked, tmp_path / "all.bank")
    assert marks(tmp_path / "all.bank", marked[0]) == {
        "1.png": "good", "2.png": "good", "3.png": "defective", "4.png": "good"
    }  # fmt: skip
    assert done.marked == 4
    disputed = f"mark of 2.png: good in {marked[0]}, defective in {marked[1]}"
    assert [line for line in done.conflicts if "mark" in line] == [
        disputed, f"the mark of 4.png of {marked[1]} was taken back in {marked[0]}: it is kept"
    ]  # fmt: skip
    assert [line for line in differences(*marked) if "png" in line] == [
        disputed,
        f"only in {marked[1]}: 3.png of the acceptance set, defective",
        f"only in {marked[1]}: 4.png of the acceptance set, good (taken back in the other)",
    ]
    detector = NaglEdge(marked[0])
    detector.load(tmp_path / "all.bank")  # what it says otherwise itself stays
    assert marks(detector.bank, marked[0]) == {
        "1.png": "good", "2.png": "good", "3.png": "defective", "4.png": "good"
    }  # fmt: skip
    detector.undo()
    assert marks(detector.bank, marked[0]) == {"1.png": "good", "2.png": "good"}


def test_the_acceptance_set_is_migrated(
    marked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = shutil.copy(NaglEdge(marked[1]).bank, tmp_path / "old.bank")
    done = migrate(old, NaglEdge(marked[0]))
    assert sorted(done.marked) == ["3.png", "4.png"]
    assert done.disputed == ("2.png",)
    wanted = {"1.png": "good", "2.png": "good", "3.png": "defective", "4.png": "good"}
    assert marks(NaglEdge(marked[0]).bank, marked[0]) == wanted
    assert NaglEdge(marked[0]).history()[-1].summary.endswith("2 marked images")
    assert nagl("edge", "undo", marked[0]) == 0
    assert marks(NaglEdge(marked[0]).bank, marked[0]) == {"1.png": "good", "2.png": "good"}
    capsys.readouterr()
    assert nagl("edge", "migrate", old, marked[0]) == 0
    told = capsys.readouterr().out
    assert "of the acceptance set, taken along: 3.png, 4.png" in told
    assert "marked otherwise here and left so: 2.png" in told
    before = NaglEdge(marked[0]).revision
    migrate(old, NaglEdge(marked[0]))  # nothing is left to take over
    assert NaglEdge(marked[0]).revision == before


def test_banks_of_other_models_are_refused_and_nothing_is_written_over(
    boxes: tuple[Path, Path], tmp_path: Path
) -> None:
    bank = boxes[0].with_suffix(".bank")
    before = bank.read_bytes()
    with pytest.raises(EdgeError, match="expected nothing: choose another -o"):
        merge(boxes, bank)
    assert bank.read_bytes() == before
    import sqlite3

    foreign = shutil.copy(bank, tmp_path / "foreign.bank")
    with sqlite3.connect(foreign) as connection:
        connection.execute("UPDATE model SET value = '\"another\"' WHERE name = 'head'")
    connection.close()
    with pytest.raises(EdgeError, match=r"made for another model than .* \(head\)"):
        merge([bank, Path(foreign)], tmp_path / "all.bank")
    assert not (tmp_path / "all.bank").exists()
    assert "model: head is" in differences(bank, Path(foreign))[0]


def test_the_commands(boxes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.bank"
    assert nagl("edge", "diff", *boxes, "--exit-code") == 1
    assert "only in" in capsys.readouterr().out
    assert nagl("edge", "diff", boxes[0], boxes[0], "--exit-code") == 0
    assert "both hold the same" in capsys.readouterr().out
    assert nagl("edge", "merge", *boxes, "-o", out, "--thresholds", 2) == 0
    told = capsys.readouterr().out
    assert "conflict: name of abnormal 1" in told
    assert f"wrote 6 references: {out}" in told
    assert NaglEdge(boxes[0], bank=out).thresholds.image == 0.6
    assert nagl("edge", "merge", boxes[0], "-o", out) == 2
    assert "expected two banks or more" in capsys.readouterr().err
    assert nagl("edge", "merge", *boxes, "-o", tmp_path / "x.bank", "--region", 3) == 2
    assert "expected the place of a bank, 1 to 2" in capsys.readouterr().err
    assert nagl("edge", "diff", boxes[0], tmp_path / "none.bank") == 2
