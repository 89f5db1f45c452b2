"""Banks of earlier versions, as far as they can still be read."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.io.errors import EdgeError

FORMAT_2 = "nagl-bank-2"  # safetensors, of version 0.1: patch tokens without the images
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_RECORD = ("kind", "name", "defect_type", "sha256")


class OldBank(NamedTuple):
    """What an old bank holds: facts of its model, references without their images, raw thresholds (2,)."""

    compatibility: dict[str, Any]
    lessons: list[Lesson]
    thresholds: list[float | None]


def read_format_2(path: Path) -> OldBank:
    """Read a bank of format 2; EdgeError if it is none, truncated or edited."""
    tensors, texts = _read(path)
    facts = json.loads(texts["compatibility"])
    grid = (int(facts["grid"][0]), int(facts["grid"][1]))
    lessons = []
    for i, record in enumerate(json.loads(texts["references"])):
        kind, name, defect_type, sha256 = (str(record[key]) for key in _RECORD)
        reference = Reference(kind, name, defect_type, sha256, localized=bool(record["localized"]))
        marked = tensors[f"{i}.patch_mask"].astype(np.float32)
        lessons.append(Lesson.of(reference, tensors[f"{i}.tokens"], marked, grid))
    values = [float(value) for value in tensors["thresholds"]]
    return OldBank(facts, lessons, [value if np.isfinite(value) else None for value in values])


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read tensors and texts of a safetensors file and compare their hash."""
    content = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        texts = dict(header.pop("__metadata__"))
        body = content[8 + length :]
        if texts["format"] != FORMAT_2 or texts.pop("sha256") != _digest(header, texts, body):
            raise ValueError("its hash does not fit its content")
        tensors: dict[str, NDArray[Any]] = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(body[start:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
        return tensors, texts
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise EdgeError(
            f"found a file that is not a whole reference bank: {path} ({error}; truncated or edited), expected one "
            "that NaglEdge.save or an export wrote: copy it again"
        ) from error


def _digest(header: dict[str, Any], texts: dict[str, str], body: bytes) -> str:
    described = json.dumps([header, texts], sort_keys=True).encode()
    return hashlib.sha256(described + body).hexdigest()
