"""Tokens of images that never change: kept in memory, or in one memory-mapped file for each image.

A file is found by what its tokens depend on: the content of the image, and the recipe, which is everything else
(size, resizing, statistics, backbone, weights, number format). So nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anomalib_nagl.io.files import atomic_write_bytes, file_hash

logger = logging.getLogger(__name__)
FORMAT = 1  # of the files; another number makes older ones be ignored
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
SPARE = 0.9  # share of the free memory or disk that tokens may take


def check_precision(name: str) -> None:
    """Raise ValueError unless this is a number format of tokens."""
    if name not in PRECISIONS:
        raise ValueError(f"found token_precision={name!r}, expected one of {', '.join(PRECISIONS)}")


def bytes_hash(path: str | Path) -> str:
    """SHA-256 of an image's file, which need not be decoded for it; ValueError if it cannot be read."""
    try:
        return file_hash(Path(path))
    except OSError as error:
        raise ValueError(f"found an image that cannot be read: {path} ({error}); replace or remove it") from error


def recipe_hash(fingerprint: str, preprocessing: Mapping[str, Any], dtype: torch.dtype) -> str:
    """Sixteen hex digits of all that tokens depend on besides the image; ``fingerprint`` is the encoder's."""
    facts = json.dumps([FORMAT, fingerprint, dict(preprocessing), str(dtype)], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


class MemoryStore:
    """Tokens of N images in memory, as (N, M, C); ``contents`` are hashes of the images, one a row.

    A GPU copies from ``pinned`` memory by itself.
    """

    def __init__(self, contents: list[str], shape: tuple[int, int], dtype: torch.dtype, pinned: bool = False) -> None:
        self.missing = list(range(len(contents)))
        _check_room(len(contents), shape, dtype, psutil.virtual_memory().available, "memory")
        self._tokens = torch.zeros(len(contents), *shape, dtype=dtype, pin_memory=pinned)

    def put(self, rows: list[int], tokens: Tensor) -> None:
        """Keep tokens (len(rows), M, C)."""
        self._tokens[rows] = tokens.to("cpu", self._tokens.dtype)

    def share(self, add: Any) -> None:
        """Complete the tokens that other processes encoded: ``add`` sums a tensor over all of them."""
        for part in self._tokens.split(64):
            part.copy_(add(part))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Tokens (..., M, C) of rows (...), as float32."""
        return self._tokens[rows].float()

    def to_gpu(self, rows: Tensor, device: torch.device) -> Tensor:
        """The same on a CUDA device: each row is copied from where it lies, and widened there."""
        shape = self._tokens.shape[1:]
        found = torch.empty(rows.numel(), *shape, dtype=self._tokens.dtype, device=device)
        for place, row in enumerate(rows.flatten().tolist()):
            found[place].copy_(self._tokens[row], non_blocking=True)
        return found.float().reshape(*rows.shape, *shape)


class FileStore:
    """Tokens of images in files under a folder, memory-mapped; several processes may use it at the same time.

    ``contents`` are hashes of the images, one a row. Every file carries that and a hash of its tokens: one that is
    truncated, damaged, of another image or shape is named in a warning and counts as missing.
    """

    def __init__(
        self, folder: str | Path, recipe: str, contents: list[str], shape: tuple[int, int], dtype: torch.dtype
    ) -> None:
        self.folder, self.contents, self.shape, self.dtype = Path(folder) / recipe, contents, shape, dtype
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"found no way to write tokens to {self.folder} ({error}), expected a folder: "
                "choose another with --model.token_cache_dir"
            ) from error
        self._maps: dict[int, Tensor] = {}
        self.missing = [row for row in range(len(contents)) if not self._open(row)]
        _check_room(len(self.missing), shape, dtype, shutil.disk_usage(self.folder).free, f"disk at {folder}")

    def put(self, rows: list[int], tokens: Tensor) -> None:
        """Write tokens (len(rows), M, C), each file in one step."""
        for row, one in zip(rows, tokens.to("cpu", self.dtype), strict=True):
            one = one.contiguous()
            data = save({"tokens": one}, {"sha256": _hash(one), "image": self.contents[row]})
            # On Windows a file cannot be replaced while another process reads what it has just written itself.
            with suppress(PermissionError):
                atomic_write_bytes(self._path(row), data)

    def share(self, add: Any) -> None:
        """Open what was written, here and by other processes; RuntimeError if a file is still not as it should be."""
        add(torch.zeros(1))  # nobody reads before everybody has written
        for row in self.missing:
            if not self._open(row):
                raise RuntimeError(
                    f"found no sound file at {self._path(row)} right after writing it, expected one: is the disk full?"
                )
        self.missing = []

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Tokens (..., M, C) of rows (...), as float32."""
        return self._rows(rows).float().reshape(*rows.shape, *self.shape)

    def to_gpu(self, rows: Tensor, device: torch.device) -> Tensor:
        """The same on a CUDA device: what lies in files goes through pinned memory."""
        found = self._rows(rows).pin_memory().to(device, non_blocking=True)
        return found.float().reshape(*rows.shape, *self.shape)

    def _rows(self, rows: Tensor) -> Tensor:
        """Tokens (N, M, C) of all rows one after the other, as they are stored."""
        if not rows.numel():
            return torch.empty(0, *self.shape, dtype=self.dtype)
        return torch.stack([self._maps[row] for row in rows.flatten().tolist()])

    def _path(self, row: int) -> Path:
        return self.folder / f"{self.contents[row][:32]}.safetensors"

    def _open(self, row: int) -> bool:
        path = self._path(row)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                tokens, facts = file.get_tensor("tokens"), file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            logger.warning("The tokens in %s cannot be read (%s): they are made anew.", path, error)
            return False
        expected = {"sha256": _hash(tokens), "image": self.contents[row]}
        if tuple(tokens.shape) != self.shape or tokens.dtype != self.dtype or facts != expected:
            logger.warning("The tokens in %s are damaged: they are made anew.", path)
            return False
        self._maps[row] = tokens
        return True


def _hash(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def _check_room(count: int, shape: tuple[int, int], dtype: torch.dtype, free: int, where: str) -> None:
    needed = count * shape[0] * shape[1] * dtype.itemsize
    logger.info("Tokens of %d images to encode: %.0f MB of %s.", count, needed / 2**20, where)
    if needed > SPARE * free:
        raise ValueError(
            f"found {free / 2**20:.0f} MB of free {where}, expected {needed / 2**20:.0f} MB for the tokens of {count} "
            "images and some to spare: use --model.token_cache_dir with a larger disk, --model.token_precision "
            "float16, fewer source categories, or --model.token_cache false"
        )
