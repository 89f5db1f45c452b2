"""Files that are written in one step, and their hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it there; a failure leaves the old file alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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

    A failure leaves ``folder`` as it was.
    """
    new = next(path for path in (folder, *folder.parents) if path.is_dir())
    with tempfile.TemporaryDirectory(dir=new, prefix=".export-") as temporary:
        written = write(Path(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(written.parent.iterdir(), key=lambda path: path == written):
            os.replace(file, folder / file.name)
    return folder / written.name
