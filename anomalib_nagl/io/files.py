"""Files that are written in one step, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from anomalib_nagl.io.errors import WriteError

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it there; a failure leaves the old file alone.

    WriteError, an OSError, where the folder cannot be written.
    """
    with _explained(path.parent, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        _check_no_folder(path)
        with _explained(path.parent, path.name), os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read
        with _explained(path.parent, path.name):
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _explained(folder: Path, name: str) -> Iterator[None]:
    """Say which folder cannot be written: the system speaks of temporary names."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError(
                f"found no room for {name} in {folder} ({error.strerror}), expected some: make room there, or choose "
                "another place"
            ) from error
        raise WriteError(
            f"found a folder that cannot be written: {folder} ({error.strerror or error}), expected one to put {name} "
            "into: let this user write there, or use a copy in another place"
        ) from error


def _check_no_folder(path: Path) -> None:
    if path.is_dir():
        raise WriteError(f"found a folder at {path}, expected a file to write, or nothing: choose another name")


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Put a whole file at ``path`` in one step."""
    atomic_write(path, lambda file: file.write(content))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def atomic_files(folder: Path, write: Callable[[Path], Path]) -> Path:
    """Let ``write`` fill an empty folder, then move its files into ``folder``, the one it names last; returns that one.

    A failure leaves ``folder`` as it was; WriteError, an OSError, where it cannot be written.
    """
    with _explained(folder, "an export"):
        new = next(path for path in (folder, *folder.parents) if path.is_dir())
        room = tempfile.TemporaryDirectory(dir=new, prefix=".export-")
    with room as temporary:
        written = write(Path(temporary))
        with _explained(folder, "an export"):
            folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(written.parent.iterdir(), key=lambda path: path == written):
            _check_no_folder(folder / file.name)
            os.replace(file, folder / file.name)
    return folder / written.name
