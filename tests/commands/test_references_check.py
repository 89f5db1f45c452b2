"""``anomalib-nagl references check``: what it says, what it draws, and when it refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import nagl
from support.reference_folders import copy_references, save

from anomalib_nagl.references.folders import scan
from anomalib_nagl.references.quality import file_problems, quality


@pytest.fixture
def part(drawn: Path, folder: Path) -> Path:
    copy_references(drawn, folder)
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that fold nothing."""
    monkeypatch.setenv("COLUMNS", "200")


def check(*arguments: object) -> int:
    """Run the check; returns its exit status."""
    return nagl("references", "check", *arguments)


def test_good_references(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("references/masks/spot/a.png").unlink()
    assert check("references", "--sheet", "sheet.png") == 0
    out = capsys.readouterr().out
    for expected in (
        "spot",
        "missing",
        "no mask: its most deviating patches are taken",
        "stands out",
        "Mean 0.",
        "builtin",
    ):
        assert expected in out
    sheet = np.array(Image.open("sheet.png").convert("RGB")).astype(int)
    assert sheet.shape[1:] == (4 * 232 + 8, 3)  # four images in a row, captions above
    tiles = [sheet[-232:-8, 8 + 232 * i : 232 * (i + 1)] for i in range(4)]
    red, orange = (
        [(np.abs(tile - np.array(colour)).sum(-1) < 40).sum() for tile in tiles]
        for colour in ((255, 0, 0), (255, 160, 0))
    )
    assert red[2] > 20  # the given mask of b.png
    assert orange[3] > 20  # the one found for a.png
    assert red[0] == red[1] == 0


def test_problems_stop_the_check(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("references/abnormal/spot/a.png", "references/normal/also.png")
    save("references/masks/spot/a.png", np.zeros((3, 3), np.uint8))
    assert check("references") == 3
    out = capsys.readouterr().out
    assert "a.png: the same image as references/normal/also.png" in out
    assert "found a mask of size (3, 3)" in out
    assert not Path("references_check.png").exists()


def test_bad_input_is_told_in_a_line(part: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("old.ckpt").write_bytes(b"no checkpoint")
    Path("other.json").write_text("{}")
    torch.save({"state_dict": {}}, "other.ckpt")
    for arguments, message in (
        (["check", "nothing"], "no folder nothing"),
        (["check", "other.json"], "no record of references: other.json"),
        (["check"], "required: DIR"),
        (["chek", "references"], "no command 'chek', expected one of check; did you mean 'check'"),
        (["check", "references", "--back_bone", "gabor"], "no option '--back_bone', .*mean '--backbone'"),
        (["check", "references", "--masks", "some"], "invalid choice: 'some'"),
        (["check", "references", "--backbone", "gabro"], "gabro"),
        (["check", "references", "--layers", "2"], "layers: found '2', expected nothing"),
        (["check", "references", "--image_size", "0"], "found .*0.*expected"),
        (["check", "references", "--checkpoint", "no.ckpt"], "found no file at no.ckpt"),
        (["check", "references", "--checkpoint", "old.ckpt"], "not a checkpoint of plain tensors: old.ckpt"),
        (["check", "references", "--checkpoint", "other.ckpt"], "not a checkpoint of Nagl: other.ckpt"),
        (["check", "references", "--checkpoint", "no.ckpt", "--layers", "2"], "--checkpoint and --layers"),
    ):
        assert nagl("references", *arguments) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(f"anomalib-nagl references: .*{message}.*\n", error), error
    assert check("empty") == 3
    assert "no reference images in it, only nothing" in capsys.readouterr().out


def test_suspicious_pictures_are_noted(part: Path) -> None:
    shutil.copy("references/normal/000.png", "references/normal/twin.png")
    save("references/normal/dark.png", np.full((192, 192), 4000, np.uint16))
    save("references/normal/long.png", np.zeros((100, 300), np.uint8))
    gradient = np.tile(np.arange(192, dtype=np.uint8), (192, 1))
    save("references/masks/spot/a.png", gradient)
    found = " ".join(problem.found for problem in file_problems(scan("references")))
    for expected in (
        "the same image as",
        "darkest values only",
        "different aspect ratios",
        "grey pixels",
        "over 99%",
    ):
        assert expected in found


def test_a_defect_among_the_normal_references_is_found() -> None:
    """One of five normal images holds the defects: without it they stand out."""
    generator = torch.Generator().manual_seed(0)
    surface, defect = torch.randn(6, 16, generator=generator), torch.randn(16, generator=generator)

    def picture(marked: int) -> torch.Tensor:
        patches = surface[torch.randint(6, (64,), generator=generator)]
        patches[:marked] = defect
        return patches + 0.2 * torch.randn(64, 16, generator=generator)

    normal = torch.stack([picture(8 if i == 2 else 0) for i in range(5)])
    abnormal = torch.stack([picture(8), picture(8)])
    marked = (torch.arange(64) < 8).float().expand(2, -1)
    names = tuple("abcdefg")
    found, defects = quality(normal, abnormal, marked, names, ("x", "y"))
    assert [one.name for one in found if any("hurts" in remark for remark in one.remarks)] == ["c"]
    assert [one.name for one in found if any("unlike" in remark for remark in one.remarks)] == ["c"]
    clean = [i for i in range(5) if i != 2]
    _, better = quality(normal[clean], abnormal, marked, names[:2] + names[3:], ("x", "y"))
    assert all(after.stands_out > before.stands_out for before, after in zip(defects, better, strict=True))
    assert all(one.contrast > 0.95 for one in better)
