"""Lessons that are checked: what a labelled folder says before and after, and masks that cannot be masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import nagl
from support.exported import defect_mask, picture, pixels
from support.parts import write

from anomalib_nagl.commands.edge_check import Judged, Labelled, compare, counts, labelled_images, try_lesson
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.mask_doubts import doubts

SIZE = (90, 80)


def judged(*given: tuple[str, bool, float]) -> dict[str, Judged]:
    """Names, whether they are defective, and scores; the threshold is 0.5."""
    return {name: Judged(Labelled(Path(name), name, defective), score, score > 0.5) for name, defective, score in given}


def test_what_a_lesson_changes_is_told() -> None:
    before = judged(("d/a", True, 0.4), ("d/b", True, 0.6), ("g/c", False, 0.6), ("g/d", False, 0.3))
    after = judged(("d/a", True, 0.7), ("d/b", True, 0.45), ("g/c", False, 0.2), ("g/d", False, 0.51))
    found = compare(before, after)
    assert found.lines == [
        "before: 1 of 2 defects found, 1 false alarms among 2 good images",
        "found now: d/a, score 0.400 to 0.700",
        "missed now: d/b, score 0.600 to 0.450",
        "new false alarm: g/d, score 0.300 to 0.510",
        "no false alarm any more: g/c, score 0.600 to 0.200",
        "after: 1 of 2 defects found, 1 false alarms among 2 good images",
    ]
    assert found.worse == ["d/b", "g/d"]
    assert compare(before, before).worse == []
    assert counts({}) == "0 of 0 defects found, 0 false alarms among 0 good images"


def test_both_spellings_of_a_labelled_folder(tmp_path: Path) -> None:
    for name in ("good/a.png", "normal/b.png", "defects/c.png", "abnormal/hole/d.png", "abnormal/hole/d_mask.png"):
        write(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    write(tmp_path / "masks/c.png", np.zeros((4, 4), np.uint8))
    assert [(one.name, one.defective) for one in labelled_images(tmp_path)] == [
        ("good/a.png", False), ("normal/b.png", False), ("defects/c.png", True), ("abnormal/hole/d.png", True),
    ]  # fmt: skip
    with pytest.raises(EdgeError, match=r"found no labelled images in .*masks"):
        labelled_images(tmp_path / "masks")


@pytest.fixture
def labelled(box: Path, tmp_path: Path) -> Path:
    """Good and defective images, and a threshold of the model between two of them, so that one defect is missed."""
    folder = tmp_path / "labelled"
    for number in range(3):
        write(folder / f"good/{number}.png", pixels(picture(SIZE, 40 + number)))
        write(folder / f"defects/{number}.png", pixels(picture(SIZE, 50 + number, True)))
    write(tmp_path / "mask.png", (defect_mask(SIZE, 50).numpy() * 255).astype(np.uint8))
    detector = NaglEdge(box)
    detector.set_thresholds(image=(detector.predict(folder / "defects/0.png").score + 1) / 2)
    assert not detector.predict(folder / "defects/0.png").label
    return folder


def test_a_lesson_is_tried_before_it_is_kept(
    box: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nagl("edge", "check", box, labelled) == 0
    said = capsys.readouterr().out
    assert re.search(r"^missed: defects/0\.png, score 0\.\d{3}$", said, re.MULTILINE)
    known = len(NaglEdge(box).references)
    command = ("edge", "add-defect", box, labelled / "defects/0.png", "--mask", tmp_path / "mask.png")
    status = nagl(*command, "--check", labelled, "--yes")
    said = capsys.readouterr().out
    assert status == 0
    assert len(NaglEdge(box).references) == known + 1
    lines = said.splitlines()
    assert lines[0].startswith("before: ")
    assert any(line.startswith("after: ") for line in lines)


def test_a_lesson_that_harms_is_questioned(
    box: Path, labelled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every good picture raises an alarm since; the bank is what it was, whatever is answered."""
    detector = NaglEdge(box)
    while any(detector.predict(path).label for path in (labelled / "good").iterdir()):
        detector.set_thresholds(image=detector.thresholds.image + 0.02)
    before = detector.history()

    def harm(tried: NaglEdge) -> None:
        tried.set_thresholds(image=0.001)

    with pytest.raises(EdgeError, match=r"found that 3 images are judged wrongly .*good/0.*give --yes"):
        try_lesson(detector, labelled, harm, box, yes=False)
    assert "new false alarm: good/2.png" in capsys.readouterr().out
    try_lesson(detector, labelled, harm, box, yes=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, refused in (("n", True), ("", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if refused:
            with pytest.raises(EdgeError, match="nothing was changed"):
                try_lesson(detector, labelled, harm, box, yes=False)
        else:
            try_lesson(detector, labelled, harm, box, yes=False)
    assert NaglEdge(box).history() == before


@pytest.mark.parametrize("kind", ["photograph", "whole", "drawn", "labels", "jpeg", "transparent"])
def test_masks_that_cannot_be_masks(kind: str, tmp_path: Path) -> None:
    """A photograph and the whole image are questioned; masks of every usual kind are not."""
    image, mask = tmp_path / "a.png", tmp_path / ("mask.jpg" if kind == "jpeg" else "mask.png")
    write(image, pixels(picture(SIZE, 1)))
    drawn = np.zeros(SIZE, np.uint8)
    drawn[10:30, 10:40] = 255
    if kind == "photograph":
        write(mask, pixels(picture(SIZE, 2)))
    elif kind == "whole":
        write(mask, np.full(SIZE, 255, np.uint8))
    elif kind == "labels":
        write(mask, np.kron(np.arange(6).reshape(2, 3), np.ones((45, 27)))[:, :80].astype(np.uint8) // 2)
    elif kind == "transparent":
        alpha = np.dstack([pixels(picture(SIZE, 2)), drawn])
        Image.fromarray(alpha).save(mask)
    else:
        Image.fromarray(drawn).save(mask)
    found = doubts(mask, image)
    assert bool(found) == (kind in ("photograph", "whole")), found


def test_a_photograph_is_no_mask(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(tmp_path / "a.png", pixels(picture(SIZE, 1)))
    known = NaglEdge(box).references
    command = ("edge", "add-defect", box, image, "--mask", image)
    assert nagl(*command) == 2
    assert "shades of grey, as a photograph has" in capsys.readouterr().err
    assert NaglEdge(box).references == known
    assert nagl(*command, "--yes") == 0
    assert len(NaglEdge(box).references) == len(known) + 1
