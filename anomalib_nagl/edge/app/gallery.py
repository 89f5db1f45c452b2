"""The images of a page: those of a folder that fills up, those that were dropped, those that a bank keeps."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.io.errors import EdgeError, printable
from anomalib_nagl.io.given_paths import read_regular
from anomalib_nagl.io.image_files import find_images

LONGEST = 200  # characters of a name that somebody sends
DROPPED, KEPT, FOLDER = "dropped", "kept", "folder"


@dataclass
class Picture:
    """An image of the gallery.

    ``number`` is its place among kept tokens. ``size`` (width, height), ``sha256`` of the file and ``error`` are known
    once it was looked at. ``stamp``, bytes and the time of the last change in nanoseconds, 0 where nobody knows, tells
    whether the file was changed. ``root`` is the folder that it has to lie in.
    """

    id: str
    name: str
    path: Path
    number: int
    source: str
    stamp: tuple[int, int]
    root: Path
    size: tuple[int, int] | None = None
    sha256: str = ""
    error: str = ""
    encoded: bool = False

    def read(self) -> bytes:
        """The bytes of the file; EdgeError where it lies elsewhere, went away, or cannot be read."""
        try:
            return read_regular(self.inside())
        except OSError as error:
            raise EdgeError(
                f"found no way to read {self.name} ({error.strerror or 'no regular file'}), expected an image file: "
                "check the folder"
            ) from error

    def hashed(self) -> str:
        """The hash of the file, empty where it cannot be read."""
        if not self.sha256:
            with contextlib.suppress(EdgeError):
                self.sha256 = hashlib.sha256(self.read()).hexdigest()
        return self.sha256

    def inside(self) -> Path:
        """The path of the file; EdgeError where a link leads out of the folder."""
        try:
            found = self.path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):  # a link to itself
            found = False
        if not found:
            raise EdgeError(
                f"found a link that leads out of the folder: {self.name}, expected an image in it: copy the image there"
            )
        return self.path


class NotThere(EdgeError):
    """Something was asked for that there is not, or not any more."""


class Gallery:
    """All images by their id, in the order in which they came; ``folder`` is followed by ``scan``.

    ``room`` is a folder for those that are dropped. An id is made of the name, or of the content of what was dropped:
    no path is ever made of what somebody sends.
    """

    def __init__(self, folder: Path | None, room: Path) -> None:
        self.folder, self._room = folder, room
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._seen: dict[Path, tuple[int, int]] = {}

    def all(self) -> list[Picture]:
        """All images at this moment."""
        with self._lock:
            return list(self._pictures.values())

    def get(self, key: str) -> Picture:
        """The image of an id; NotThere where there is none."""
        with self._lock:
            if key not in self._pictures:
                raise NotThere(f"found no image {key[:60]!r}, expected one of the gallery: load it again")
            return self._pictures[key]

    def by_content(self, sha256: str) -> Picture | None:
        """An image with this content, if one was looked at."""
        return next((one for one in self.all() if one.sha256 == sha256), None)

    def add(self, data: bytes, name: str, changed: int) -> Picture:
        """Take an image that was dropped, ``changed`` last at a time in nanoseconds; the same one twice is one."""
        sha256 = hashlib.sha256(data).hexdigest()
        if (known := self.by_content(sha256)) is not None:
            return known
        return self._keep(sha256, data, plain_name(name), DROPPED, changed)

    def keep(self, marked: Marked, data: bytes) -> Picture:
        """Take an image of the acceptance set that is not there otherwise."""
        return self._keep(marked.sha256, data, marked.name, KEPT)

    def settle(self, one: Picture) -> None:
        """Show an image once: one that is in the folder is no longer shown as the bank keeps it."""
        for other in self.all():
            if other is not one and other.source == KEPT and other.sha256 == one.sha256:
                self._drop(other)

    def _keep(self, sha256: str, data: bytes, name: str, source: str, changed: int = 0) -> Picture:
        path = self._room / f"image-{sha256}"
        path.write_bytes(data)
        return self._put(path, self._room, name, sha256[:20], source, (len(data), changed), sha256)

    def _put(
        self, path: Path, root: Path, name: str, key: str, source: str, stamp: tuple[int, int], sha256: str = ""
    ) -> Picture:
        with self._lock:
            one = Picture(key, name, path, self._number, source, stamp, root.resolve(), sha256=sha256)
            self._number += 1
            self._pictures[key] = one
            return one

    def scan(self, first: bool = False) -> tuple[list[Picture], list[Picture]]:
        """Look into the folder again: images that are new or were changed, and those that went away.

        A file counts once its size and time are what they were at the last look: others are still being written.
        """
        if self.folder is None or not self.folder.is_dir():
            return [], []
        came, gone, seen = [], [], {}
        root = self.folder.resolve()
        known = {one.path: one for one in self.all() if one.source == FOLDER}
        for path in find_images(self.folder):
            try:
                state = path.stat()
                stamp = (state.st_size, state.st_mtime_ns)
            except OSError:
                stamp = (-1, 0)
            seen[path] = stamp
            before = known.pop(path, None)
            if before is not None and before.stamp == stamp:
                continue
            if not first and self._seen.get(path) != stamp:
                continue
            if before is not None:
                gone.append(before)
                self._drop(before)
            came.append(self._from_folder(path, root, stamp))
        self._seen = seen
        for one in known.values():
            gone.append(one)
            self._drop(one)
        return came, gone

    def _from_folder(self, path: Path, root: Path, stamp: tuple[int, int]) -> Picture:
        name = printable(path.relative_to(self.folder or root).as_posix())
        key = hashlib.sha256(name.encode()).hexdigest()[:20]
        return self._put(path, root, name, key, FOLDER, stamp)

    def _drop(self, one: Picture) -> None:
        with self._lock:
            if self._pictures.get(one.id) is one:
                del self._pictures[one.id]


def plain_name(given: str) -> str:
    """A name to show, of what somebody sends: the last part of a path, printable and not too long."""
    last = PurePath(given.replace("\\", "/")).name
    text = "".join(letter for letter in last if letter.isprintable() and unicodedata.category(letter) != "Cs")
    return text.strip()[:LONGEST] or "image"


def total_of(pictures: Iterable[Picture]) -> dict[str, int]:
    """How many images there are, are encoded, and failed."""
    found = {"total": 0, "encoded": 0, "failed": 0}
    for one in pictures:
        found["total"] += 1
        found["encoded"] += one.encoded
        found["failed"] += bool(one.error)
    return found
