"""Files that arrive in a folder, once they are whole.

The folder is looked through again and again. Being told of changes by the system is one call on Linux and another on
each other system, needs a package, and does not work on network drives, where cameras write; a folder of some thousand
files is looked through in milliseconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from anomalib_nagl.io.image_formats import is_image_file
from anomalib_nagl.io.prediction_log import Identity


class Arrival(NamedTuple):
    """A file that is whole."""

    path: Path
    identity: Identity


class Arrivals:
    """Image files below a folder, each once its size and time have stayed for ``still`` seconds.

    One that is new here and was changed longer ago was moved here, and is whole. Hidden files and folders, links and
    ``left_out`` folders are not looked at. ``clock`` and ``wall`` are a clock that never goes back, and that of files.
    """

    def __init__(
        self,
        folder: Path,
        still: float,
        left_out: Collection[Path] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self._still = folder, still
        self._left_out = {os.path.realpath(path) for path in left_out}
        self._clock, self._wall = clock, wall
        self._since: dict[str, tuple[Identity, float]] = {}  # since when a file is as it is

    def whole(self) -> list[Arrival]:
        """All files that are whole now, the one that was changed first before the others."""
        now, wall = self._clock(), self._wall()
        seen: dict[str, tuple[Identity, float]] = {}
        found = []
        for path, identity in self._files(os.fspath(self.folder)):
            known, since = self._since.get(path, (None, now))
            if known is None and identity.modified / 1e9 < wall - self._still:
                since = now - self._still
            elif known != identity:
                since = now
            seen[path] = identity, since
            if now - since >= self._still:
                found.append(Arrival(Path(path), identity))
        self._since = seen
        return sorted(found, key=lambda one: (one.identity.modified, one.path.name))

    @property
    def present(self) -> Collection[str]:
        """Paths that were there when last looked."""
        return self._since.keys()

    def _files(self, folder: str) -> Iterator[tuple[str, Identity]]:
        """Image files below a folder; what cannot be looked at, or went away in between, is looked at the next time."""
        try:
            entries = list(os.scandir(folder))
        except OSError:
            if folder == os.fspath(self.folder):
                raise
            return
        for entry in entries:
            try:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if os.path.realpath(entry.path) not in self._left_out:
                        yield from self._files(entry.path)
                elif entry.is_file(follow_symlinks=False) and is_image_file(entry.name):
                    found = entry.stat(follow_symlinks=False)
                    yield entry.path, Identity(found.st_size, found.st_mtime_ns)
            except OSError:
                continue
