"""Patch tokens of many images on disk, so that they are scored again without being encoded again."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 32  # images in a file
WHOLE = 400_000  # bytes of an image in single precision: 4 GB for ten thousand
RESERVE = 1 << 30  # bytes of the disk that are left to others


class KeptTokens:
    """Tokens (M, C) by the number of an image, mapped from files in the folder ``room``.

    They are kept as they are or, where an image would take more than ``WHOLE``, in half precision. The system holds in
    memory what is read often, and gives it up where memory is short.
    """

    def __init__(self, room: Path, shape: tuple[int, int]) -> None:
        self._room, self._shape = room, shape
        self._kind = np.dtype(np.float32 if 4 * shape[0] * shape[1] <= WHOLE else np.float16)
        self._chunks: list[NDArray[np.floating]] = []
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def put(self, number: int, tokens: NDArray[np.float32]) -> bool:
        """Keep the tokens of an image; False where the disk has no room for them, or the kind no such numbers."""
        with np.errstate(over="ignore"):
            kept = tokens.astype(self._kind)
        if not np.isfinite(kept).all():
            return False
        with self._lock:
            try:
                place = self._places[number] if number in self._places else self._place()
            except OSError:
                return False
            self._chunks[place // CHUNK][place % CHUNK] = kept
            self._places[number] = place
        return True

    def get(self, number: int) -> NDArray[np.float32] | None:
        """The tokens of an image, None where none are kept."""
        with self._lock:
            place = self._places.get(number)
            return None if place is None else self._chunks[place // CHUNK][place % CHUNK].astype(np.float32)

    def forget(self, number: int) -> None:
        """Let the place of an image be used again."""
        with self._lock:
            if (place := self._places.pop(number, None)) is not None:
                self._free.append(place)

    def _place(self) -> int:
        """A free place, in a new file where there is none; OSError where the disk has no room for it."""
        if not self._free:
            path, shape = self._room / f"tokens-{len(self._chunks)}", (CHUNK, *self._shape)
            size = int(np.prod(shape)) * self._kind.itemsize
            if shutil.disk_usage(self._room).free < size + RESERVE:
                raise OSError("no room")
            _fill(path, size)
            first = CHUNK * len(self._chunks)
            self._chunks.append(np.memmap(path, self._kind, "r+", shape=shape))
            self._free = list(range(first + CHUNK - 1, first - 1, -1))
        return self._free.pop()


def _fill(path: Path, size: int) -> None:
    """Take the room on disk now: a map into a file with holes ends the program when the disk is full."""
    zeros = bytes(1 << 20)
    try:
        with path.open("wb") as file:
            for start in range(0, size, len(zeros)):
                file.write(zeros[: size - start])
    except OSError:
        path.unlink()
        raise
