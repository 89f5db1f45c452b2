"""Images and masks as they were given, kept as bytes without loss and read again later."""

from __future__ import annotations

import io
import mimetypes
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.arrays import as_image, as_mask
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given_paths import read_regular

ARRAY = "application/x-npy+zlib"  # NumPy's own format, packed fast
IMAGE, MASK = "image", "mask"


class File(NamedTuple):
    """Bytes of an image or a mask and what they are, such as ``image/png``."""

    media: str
    data: bytes


class Decoded(NamedTuple):
    """An image (3, H, W) in [0, 1] and, where it has one, its mask 0/1 (H, W)."""

    image: NDArray[np.float32]
    mask: NDArray[np.float32] | None


def keep(image: Any, mask: Any = None) -> dict[str, File]:
    """Bytes of an image and its mask: those of the files, or arrays in NumPy's format."""
    files = {IMAGE: _file(image, "application/octet-stream")}
    if mask is not None:
        files[MASK] = _file(mask if isinstance(mask, str | Path) else np.asarray(mask) != 0, "application/octet-stream")
    return files


def read(files: Mapping[str, File], name: str) -> Decoded:
    """Read kept bytes as they were read when they were given; EdgeError where the image was left out."""
    if IMAGE not in files:
        raise EdgeError(f"found no image of reference {name!r} in the bank, expected it to be kept: add it anew")
    with tempfile.TemporaryDirectory() as folder:
        given = {role: _given(file, Path(folder) / role) for role, file in files.items()}
        image = as_image(given[IMAGE])
        mask = as_mask(given[MASK], given[IMAGE], image.shape[1:], name) if MASK in given else None
    return Decoded(image, mask)


def _file(given: Any, otherwise: str) -> File:
    if isinstance(given, str | Path):
        return File(mimetypes.guess_type(str(given))[0] or otherwise, read_regular(given))
    stream = io.BytesIO()
    np.save(stream, np.asarray(given), allow_pickle=False)
    return File(ARRAY, zlib.compress(stream.getvalue(), 1))


def _given(file: File, path: Path) -> Any:
    """A file at ``path``, or the array."""
    if file.media != ARRAY:
        path = path.with_suffix(mimetypes.guess_extension(file.media) or ".img")
        path.write_bytes(file.data)
        return path
    try:
        return np.load(io.BytesIO(zlib.decompress(file.data)), allow_pickle=False)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise EdgeError(f"found an image in the bank that cannot be read ({error}), expected NumPy's format") from error
