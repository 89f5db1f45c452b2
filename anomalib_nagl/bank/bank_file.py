"""The reference pack: what the detector knows of a part, in one safetensors file that needs no library."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write_bytes

FORMAT = "nagl-references-2"
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_RECORD = ("kind", "name", "defect_type", "sha256")


@dataclass(frozen=True)
class Reference:
    """One picture that a detector compares with.

    ``kind`` is ``normal`` or ``abnormal``, ``sha256`` that of its 8-bit pixels, ``thumbnail`` a small RGB copy
    (h, w, 3). Computed with are only its patch tokens (M, C), the patches that are marked abnormal (M,), 0/1, and
    whether an abnormal picture is ``located``: its mask was given, and is not the whole picture.
    """

    kind: str
    name: str
    defect_type: str
    sha256: str
    thumbnail: NDArray[np.uint8] = field(repr=False, compare=False)
    tokens: NDArray[np.float32] = field(repr=False, compare=False)
    marks: NDArray[np.float32] = field(repr=False, compare=False)
    located: bool = False


@dataclass(frozen=True)
class Pack:
    """References, what residual mining made of them (Q, C), and the raw thresholds (2,) of image scores and pixels.

    ``signature`` names the backbone, head and grid that the numbers belong to. Without abnormal references the
    residual proxies are zero.
    """

    references: tuple[Reference, ...]
    residual_proxies: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    signature: dict[str, Any]

    @property
    def normal(self) -> tuple[Reference, ...]:
        """The normal references."""
        return tuple(one for one in self.references if one.kind == "normal")

    @property
    def abnormal(self) -> tuple[Reference, ...]:
        """The abnormal references."""
        return tuple(one for one in self.references if one.kind == "abnormal")

    def normal_bank(self) -> NDArray[np.float32]:
        """Patches (K, C) that count as normal: those of the normal pictures.

        With ``context``, also those of the located ones that lie clear of their marks. Without normal pictures, the
        unmarked patches of the abnormal ones (specification, section 10). EdgeError if none is left.
        """
        if self.normal:
            around = self._located if self.signature["context"] else ()
            return np.concatenate(
                [one.tokens for one in self.normal]
                + [one.tokens[_clear_of(one.marks, self.signature["grid"])] for one in around]
            )
        if not self.abnormal:
            raise EdgeError("found no references, expected at least one: keep a picture, or add one first")
        bank = np.concatenate([one.tokens[one.marks == 0] for one in self.abnormal])
        if not len(bank):
            raise EdgeError(
                "found references without a single normal patch, expected at least one: add a normal reference, or a "
                "mask that does not cover the whole picture"
            )
        return bank

    def defect_bank(self) -> NDArray[np.float32]:
        """Patches (D, C) of known defects: the marked ones of located pictures; a zero one without any."""
        found = [one.tokens[one.marks > 0] for one in self._located]
        return np.concatenate(found) if found else np.zeros_like(self.residual_proxies[:1])

    @property
    def _located(self) -> tuple[Reference, ...]:
        return tuple(one for one in self.abnormal if one.located)


def _clear_of(marks: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which patches (M,) are neither marked nor next to a marked one."""
    rows, cols = grid
    padded = np.pad(marks.reshape(rows, cols) > 0, 1)
    near = [padded[i : i + rows, j : j + cols] for i in range(3) for j in range(3)]
    clear: NDArray[np.bool_] = ~np.logical_or.reduce(near).reshape(-1)
    return clear


def write_pack(path: Path, pack: Pack) -> None:
    """Write a pack in one step."""
    tensors: dict[str, NDArray[Any]] = {
        "residual_proxies": pack.residual_proxies.astype("<f4"),
        "thresholds": pack.thresholds.astype("<f4"),
    }
    for i, one in enumerate(pack.references):
        tensors[f"{i}.tokens"] = one.tokens.astype("<f4")
        tensors[f"{i}.marks"] = one.marks.astype("u1")
        tensors[f"{i}.thumbnail"] = one.thumbnail.astype("u1")
    records = [{key: getattr(one, key) for key in (*_RECORD, "located")} for one in pack.references]
    texts = {"format": FORMAT, "signature": json.dumps(pack.signature), "references": json.dumps(records)}
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


def read_pack(path: Path, signature: Mapping[str, Any]) -> Pack:
    """Read a pack that was made for the model of this signature.

    EdgeError if the file is missing, truncated or edited, or belongs to another backbone, head or grid.
    """
    tensors, texts = _read(path)
    made_for = json.loads(texts["signature"])
    different = [f"{key} {made_for.get(key)!r} instead of {value!r}" for key, value in signature.items()
                 if made_for.get(key) != value]  # fmt: skip
    if different:
        raise EdgeError(
            f"found a reference pack made for another model: {path} ({'; '.join(different)}), expected one of this "
            "backbone, head and grid: show this detector the pictures themselves"
        )
    references = tuple(
        Reference(
            **{key: str(record[key]) for key in _RECORD},
            thumbnail=tensors[f"{i}.thumbnail"],
            tokens=tensors[f"{i}.tokens"],
            marks=tensors[f"{i}.marks"].astype(np.float32),
            located=bool(record["located"]),
        )
        for i, record in enumerate(json.loads(texts["references"]))
    )
    pack = Pack(references, tensors["residual_proxies"], tensors["thresholds"], dict(signature))
    _check_shapes(pack, path)
    return pack


def _check_shapes(pack: Pack, path: Path) -> None:
    """Raise EdgeError unless every array has the shape that the signature promises."""
    (rows, cols), dim = pack.signature["grid"], pack.signature["dim"]
    patches = rows * cols
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    shapes = [("residual_proxies", pack.residual_proxies.shape, (pack.signature["num_proxies"], dim))]
    shapes += [("thresholds", pack.thresholds.shape, (2,))]
    for one in pack.references:
        fewer = len(one.tokens) if one.kind == "normal" and len(one.tokens) < patches else patches  # a coreset
        shapes += [(f"tokens of {one.name}", one.tokens.shape, (fewer, dim))]
        shapes += [(f"marks of {one.name}", one.marks.shape, (patches,))]
    for name, found, expected in shapes:
        if found != expected:
            raise EdgeError(f"found {name} of shape {found} in {path}, expected {expected}: copy the file again")


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read tensors and texts of a safetensors file and compare their hash."""
    if not path.is_file():
        raise EdgeError(f"found no reference pack at {path}, expected the one exported with the model: check the path")
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
            f"found a file that is not a whole reference pack: {path} ({error}; truncated or edited), expected one "
            "that NaglEdge.save or an export wrote: copy it again"
        ) from error


def _digest(header: Mapping[str, Any], texts: Mapping[str, str], body: bytes) -> str:
    described = json.dumps([header, texts], sort_keys=True).encode()
    return hashlib.sha256(described + body).hexdigest()
