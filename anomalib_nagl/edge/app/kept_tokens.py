"""Patch tokens of many images on disk, so that they are scored again without being encoded again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 32  # images in a file
WHOLE = 400_000  # bytes of an image in single precision: 4 GB for ten thousand


class KeptTokens:
    """Tokens (M, C) by the number of an image, mapped from files in the folder ``room``.

    They are kept as they are or, where an image would take more than ``WHOLE``, in half precision. The system holds in
    memory what is read often, and gives it up where memory is short.
    """

    def __init__(self, room: Path, shape: tuple[int, int]) -> None:
        self._room, self._shape = room, shape
        self._kind = np.dtype(np.float32 if 4 * shape[0] * shape[1] <= WHOLE else np.float16)
        self._chunks: dict[int, NDArray[np.floating]] = {}
        self._held: set[int] = set()
        self._lock = threading.Lock()

    def put(self, number: int, tokens: NDArray[np.float32]) -> bool:
        """Keep the tokens of an image; False where the disk has no room for them, or the kind no such numbers."""
        kept = tokens.astype(self._kind)
        if not np.isfinite(kept).all():
            return False
        try:
            self._chunk(number // CHUNK)[number % CHUNK] = kept
        except OSError:
            return False
        self._held.add(number)
        return True

    def get(self, number: int) -> NDArray[np.float32] | None:
        """The tokens of an image, None where none are kept."""
        if number not in self._held:
            return None
        return self._chunk(number // CHUNK)[number % CHUNK].astype(np.float32)

    def forget(self, number: int) -> None:
        """Let the place of an image be used again."""
        self._held.discard(number)

    def _chunk(self, index: int) -> NDArray[np.floating]:
        with self._lock:
            if index not in self._chunks:
                path, shape = self._room / f"tokens-{index}", (CHUNK, *self._shape)
                self._fill(path, int(np.prod(shape)) * self._kind.itemsize)
                self._chunks[index] = np.memmap(path, self._kind, "r+", shape=shape)
            return self._chunks[index]

    def _fill(self, path: Path, size: int) -> None:
        """Take the room on disk now: a map into a file with holes ends the program when the disk is full."""
        zeros = bytes(1 << 20)
        try:
            with path.open("wb") as file:
                for start in range(0, size, len(zeros)):
                    file.write(zeros[: size - start])
        except OSError:
            os.unlink(path)
            raise
