"""Paths that people hand over: what one is, and files that are opened only when they are regular."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from anomalib_nagl.io.errors import EdgeError

_NOT_REGULAR = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


LONGEST = 240  # bytes of a name: systems take 255, and files beside ours (journals) have longer ones than it


def as_path(given: object, what: str) -> Path:
    """A path of text or of an object that stands for one; EdgeError for None, bytes, an empty one or no name at all.

    ``what`` says in the error which path is meant.
    """
    text = given.__fspath__() if isinstance(given, os.PathLike) else given
    if isinstance(text, str) and any(len(os.fsencode(part)) > LONGEST for part in Path(text).parts):
        raise EdgeError(
            f"found {text[:40]!r}... as {what}, expected names of at most {LONGEST} bytes: choose a shorter one"
        )
    if not isinstance(text, str) or not text.strip() or "\0" in text or not Path(text).name:
        raise EdgeError(f"found {str(given)[:40]!r} ({type(given).__name__}) as {what}, expected the path of a file")
    return Path(text)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; OSError where there is none, or for a folder, a pipe or a device.

    Opening a pipe would wait for somebody to write into it, and a device may never end.
    """
    _check_regular(os.stat(path), path)
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    try:
        _check_regular(os.fstat(file.fileno()), path)  # it may have been replaced in between
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | Path) -> bytes:
    """The content of a file; OSError as of ``open_regular``."""
    with open_regular(path) as file:
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has no such flag, and no such pipes


def _check_regular(found: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = _NOT_REGULAR.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(f"{what}, no regular file: {str(path)!r}")
