"""Files written in one step, where they cannot be written, and images that are found in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_files, atomic_write_bytes
from anomalib_nagl.io.image_files import find_images


@pytest.fixture(params=["read-only", "file"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write, and a file where a folder should be."""
    folder = tmp_path / "box"
    if request.param == "file":
        folder.write_text("")
        yield folder
        return
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        folder.chmod(0o755)
        pytest.skip("this user may write anywhere")
    yield folder
    folder.chmod(0o755)


def write_bytes(folder: Path) -> None:
    atomic_write_bytes(folder / "part.bank", b"new")


def write_export(folder: Path) -> None:
    def write(room: Path) -> Path:
        (room / "model.xml").write_text("")
        return room / "model.xml"

    atomic_files(folder, write)


@pytest.mark.parametrize("write", [write_bytes, write_export])
@pytest.mark.parametrize("error", [EdgeError, ValueError, OSError])
def test_a_place_that_cannot_be_written_is_named(closed: Path, write: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^found a folder that cannot be written: \S+box \(.*\), expected one .*: let "):
        write(closed)


def test_an_unwritable_place_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a user who may write anywhere: the system says no."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path / ".part.bank-x7k"))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(
        EdgeError, match=r"written: .* \(Read-only file system\), expected one to put part\.bank"
    ) as found:
        atomic_write_bytes(tmp_path / "part.bank", b"new")
    assert "x7k" not in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_folder(tmp_path: Path) -> None:
    """Folders named like images are looked into, links that lead nowhere and pipes are listed, what is hidden not."""
    for name in ("b.PNG", "lot7.png/a.jpg", "lot7.png/deep.tif/c.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty.png").mkdir()
    try:
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    except OSError:
        pytest.skip("links need a right here")
    os.mkfifo(tmp_path / "pipe.png") if hasattr(os, "mkfifo") else None
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    pipe = ["pipe.png"] if hasattr(os, "mkfifo") else []
    assert found == ["b.PNG", "gone.png", "lot7.png/a.jpg", "lot7.png/deep.tif/c.png", *pipe]
