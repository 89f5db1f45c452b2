"""A reference bank in one safetensors file that needs no library."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.bank import Bank, Reference
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write_bytes

FORMAT = "nagl-bank-2"
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_RECORD = ("kind", "name", "defect_type", "sha256")


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank in one step."""
    tensors: dict[str, NDArray[Any]] = {
        "residual_proxies": bank.residual_proxies.astype("<f4"),
        "thresholds": bank.thresholds.astype("<f4"),
    }
    for i, one in enumerate(bank.references):
        tensors[f"{i}.tokens"] = one.tokens.astype("<f4")
        tensors[f"{i}.patch_mask"] = one.patch_mask.astype("u1")
        tensors[f"{i}.thumbnail"] = one.thumbnail.astype("u1")
    records = [{key: getattr(one, key) for key in (*_RECORD, "localized")} for one in bank.references]
    texts = {"format": FORMAT, "compatibility": json.dumps(bank.compatibility), "references": json.dumps(records)}
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    header: dict[str, Any] = {}
    start = 0
    for name, array in tensors.items():
        kind = "F32" if array.dtype == _TYPES["F32"] else "U8"
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    header["__metadata__"] = {**texts, "sha256": _digest(header, texts, body)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    atomic_write_bytes(path, struct.pack("<Q", len(encoded)) + encoded + body)


def read_bank(path: Path, compatibility: Mapping[str, Any]) -> Bank:
    """Read a bank that was made for the model of this compatibility.

    EdgeError if the file is missing, truncated or edited, or belongs to another backbone, head or grid.
    """
    tensors, texts = _read(path)
    made_for = json.loads(texts["compatibility"])
    different = [f"{key} {made_for.get(key)!r} instead of {value!r}" for key, value in compatibility.items()
                 if made_for.get(key) != value]  # fmt: skip
    if different:
        raise EdgeError(
            f"found a reference bank made for another model: {path} ({'; '.join(different)}), expected one of this "
            "backbone, head and grid: show this detector the images themselves"
        )
    references = tuple(
        Reference(
            **{key: str(record[key]) for key in _RECORD},
            thumbnail=tensors[f"{i}.thumbnail"],
            tokens=tensors[f"{i}.tokens"],
            patch_mask=tensors[f"{i}.patch_mask"].astype(np.float32),
            localized=bool(record["localized"]),
        )
        for i, record in enumerate(json.loads(texts["references"]))
    )
    bank = Bank(references, tensors["residual_proxies"], tensors["thresholds"], dict(compatibility))
    _check_shapes(bank, path)
    return bank


def _check_shapes(bank: Bank, path: Path) -> None:
    """Raise EdgeError unless every array has the shape that the compatibility promises."""
    (rows, cols), dim = bank.compatibility["grid"], bank.compatibility["dim"]
    patches = rows * cols
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    shapes = [("residual_proxies", bank.residual_proxies.shape, (bank.compatibility["num_proxies"], dim))]
    shapes += [("thresholds", bank.thresholds.shape, (2,))]
    for one in bank.references:
        fewer = len(one.tokens) if one.kind == "normal" and len(one.tokens) < patches else patches  # a coreset
        shapes += [(f"tokens of {one.name}", one.tokens.shape, (fewer, dim))]
        shapes += [(f"patch mask of {one.name}", one.patch_mask.shape, (patches,))]
    for name, found, expected in shapes:
        if found != expected:
            raise EdgeError(f"found {name} of shape {found} in {path}, expected {expected}: copy the file again")


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read tensors and texts of a safetensors file and compare their hash."""
    if not path.is_file():
        raise EdgeError(f"found no reference bank at {path}, expected the one exported with the model: check the path")
    content = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        texts = dict(header.pop("__metadata__"))
        body = content[8 + length :]
        if texts["format"] != FORMAT or texts.pop("sha256") != _digest(header, texts, body):
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


def _digest(header: Mapping[str, Any], texts: Mapping[str, str], body: bytes) -> str:
    described = json.dumps([header, texts], sort_keys=True).encode()
    return hashlib.sha256(described + body).hexdigest()
