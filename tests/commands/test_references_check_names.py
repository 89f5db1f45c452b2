"""``anomalib-nagl references check`` of folders with odd names, and where it may not read or write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.commands import nagl
from support.parts import part, write

from anomalib_nagl import ReferenceSet
from anomalib_nagl.io.errors import printable


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that fold nothing."""
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.parametrize("kind", ["[/]", "[bold]", "[/b", os.fsdecode(b"caf\xe9")])
def test_folders_may_have_any_name(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks of rich, and names that are no UTF-8."""
    for name in (f"refs{kind}/normal/{kind}0.png", f"refs{kind}/abnormal/{kind}/1.png"):
        try:
            write(Path(name), part(3, "abnormal" in name)[0])
        except (OSError, ValueError):
            pytest.skip("no such names here")
    assert nagl("references", "check", f"refs{kind}", "--image_size", 64) == 0
    assert printable(kind) in capsys.readouterr().out


def test_places_that_cannot_be_written_or_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("refs/normal/0.png"), part(3)[0])
    Path("file").write_text("")
    assert nagl("references", "check", "refs", "--image_size", 64, "--sheet", "file/sheet.png") == 2
    assert "found a folder that cannot be written: file" in capsys.readouterr().err
    assert nagl("references", "check", "refs", "--image_size", 64, "--sheet", "refs") == 2
    assert "found a folder at refs" in capsys.readouterr().err


def test_a_folder_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("refs/normal/0.png"), part(3)[0])

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(
        ValueError, match=r"found a folder that cannot be read: refs\S* \(Permission denied\), expected"
    ):
        ReferenceSet.from_folder("refs")
