"""What is expensive is made by one process of a test run and used by all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process to ask has filled by ``make(folder)``; the others wait for it."""
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a process left that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    """Be in a folder for a while; ``contextlib.chdir`` is newer than Python 3.10."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
