"""Banks of earlier versions, as far as they can still be read."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.border import THRESHOLDS, check_lesson, check_names, check_settings
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given_paths import read_regular
from anomalib_nagl.io.json_values import parse_json
from anomalib_nagl.io.model_facts import OLD, check_facts

FORMAT_2 = "nagl-bank-2"  # safetensors, of version 0.1: patch tokens without the images
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_RECORD = ("kind", "name", "defect_type", "sha256")


class OldBank(NamedTuple):
    """What an old bank holds: facts of its model, references without their images, raw thresholds (2,)."""

    compatibility: dict[str, Any]
    lessons: list[Lesson]
    thresholds: list[float | None]


def read_format_2(path: Path) -> OldBank:
    """Read a bank of format 2; EdgeError if it is none, truncated or edited, or holds what cannot be."""
    try:
        tensors, texts = _read(read_regular(path))
        facts = check_facts(parse_json(texts["compatibility"]), path, OLD)
        records = [dict(record) for record in parse_json(texts["references"])]
        lessons = [_lesson(i, record, tensors, facts) for i, record in enumerate(records)]
        values = tensors["thresholds"].astype(np.float32).tolist()
    except EdgeError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, struct.error) as error:
        raise EdgeError(
            f"found a file that is not a whole reference bank: {path} ({error}; truncated or edited), expected one "
            "that NaglEdge.save or an export wrote: copy it again"
        ) from error
    check_names(lesson.reference for lesson in lessons)
    thresholds = [None if math.isnan(value) else value for value in values]  # as none was written then
    check_settings({THRESHOLDS: thresholds})
    return OldBank(facts, lessons, thresholds)


def _lesson(i: int, record: dict[str, Any], tensors: dict[str, NDArray[Any]], facts: dict[str, Any]) -> Lesson:
    """The reference of one record; its patches are looked at before they are taken apart."""
    kind, name, defect_type, sha256 = (record[key] for key in _RECORD)
    reference = Reference(kind, name, defect_type, sha256, localized=bool(record["localized"]))
    grid = (int(facts["grid"][0]), int(facts["grid"][1]))
    tokens, marked = tensors[f"{i}.tokens"], tensors[f"{i}.patch_mask"].astype(np.float32)
    expected = (grid[0] * grid[1], facts["dim"])
    if tokens.shape != expected or marked.shape != expected[:1] or not np.isin(marked, (0, 1)).all():
        raise ValueError(f"the patches of {name!r} are not of shape {expected}, or not marked with 0 and 1")
    lesson = Lesson.of(reference, tokens.astype(np.float32), marked, grid)
    check_lesson(lesson, facts)
    return lesson


def _read(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and texts of a safetensors file whose hash fits, and whose tensors fill it one after the other."""
    (length,) = struct.unpack("<Q", content[:8])
    header = parse_json(content[8 : 8 + length])
    texts = dict(header.pop("__metadata__"))
    body = content[8 + length :]
    if texts["format"] != FORMAT_2 or texts.pop("sha256") != _digest(header, texts, body):
        raise ValueError("its hash does not fit its content")
    tensors: dict[str, NDArray[Any]] = {}
    filled = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if start != filled or not all(type(side) is int and side >= 0 for side in entry["shape"]):
            raise ValueError(f"{name} is not where the tensor before it ends")
        tensors[name] = np.frombuffer(body[start:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
        filled = end
    return tensors, texts


def _digest(header: dict[str, Any], texts: dict[str, str], body: bytes) -> str:
    described = json.dumps([header, texts], sort_keys=True).encode()
    return hashlib.sha256(described + body).hexdigest()
