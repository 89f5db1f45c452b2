"""Banks of earlier formats are held to what is asked of ours."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bank.test_bank_file import BANKS
from bank.test_border import IMPOSSIBLE
from safetensors.numpy import load_file

from anomalib_nagl.bank.old_formats import _digest, read_format_2
from anomalib_nagl.io.errors import EdgeError


def format_2(
    path: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any], list[dict[str, Any]]], object]
) -> Path:
    """A bank of format 2 that was changed by somebody who knows its hash."""
    source = BANKS / "format_2.safetensors"
    content = source.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    texts = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors, compatibility, records = (
        load_file(source),
        json.loads(texts["compatibility"]),
        json.loads(texts["references"]),
    )
    change(tensors, compatibility, records)
    texts = {**texts, "compatibility": json.dumps(compatibility), "references": json.dumps(records)}
    del texts["sha256"]
    header, body = {}, b""
    for name, array in tensors.items():
        kind = "U8" if array.dtype == np.uint8 else "F32"
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + array.nbytes],
        }
        body += array.tobytes()
    described = json.dumps({**header, "__metadata__": {**texts, "sha256": _digest(header, texts, body)}}).encode()
    path.write_bytes(struct.pack("<Q", len(described)) + described + body)
    return path


def test_the_helper_writes_what_is_read(tmp_path: Path) -> None:
    assert len(read_format_2(format_2(tmp_path / "old.bank", lambda *parts: None)).lessons) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[(lambda t, c, r, value=value: t["0.tokens"].fill(value), "patch tokens from") for value in IMPOSSIBLE],
        (lambda t, c, r: t["1.patch_mask"].fill(0), "0 marked"),
        (lambda t, c, r: t["1.patch_mask"].fill(7), "not marked with 0 and 1"),
        (lambda t, c, r: t["thresholds"].fill(np.inf), "expected two finite numbers"),
        (lambda t, c, r: t.update({"thresholds": np.zeros(3, np.float32)}), "expected two finite numbers"),
        (lambda t, c, r: t.update({"0.tokens": np.zeros((2, 2), np.float32)}), "not of shape"),
        (lambda t, c, r: t.pop("0.tokens"), "0.tokens"),
        (lambda t, c, r: t.pop("thresholds"), "thresholds"),
        (lambda t, c, r: r[0].pop("name"), "name"),
        (lambda t, c, r: r[0].update(kind="odd"), "of kind 'odd'"),
        (lambda t, c, r: r[0].update(kind=None), "of kind None"),
        (lambda t, c, r: r[0].update(name=5), "name '5'"),
        (lambda t, c, r: r[0].update(name=r[1]["name"]), "two references of the name"),
        (lambda t, c, r: r.append(r[0]), "2.tokens"),
        (lambda t, c, r: r.append(5), "not a whole"),
        (lambda t, c, r: c.update(grid="4x5"), "facts of a model"),
        (lambda t, c, r: c.pop("dim"), "without dim"),
    ],
)
def test_old_banks_are_held_to_the_same(change: Callable[..., object], message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=f"found .*{message}"):
        read_format_2(format_2(tmp_path / "old.bank", change))


@pytest.mark.parametrize("header", [b"[" * 100_000, b"{}", b"[]", b"null", b'{"__metadata__": 5}', b"\xff"])
def test_old_banks_with_a_broken_header(header: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "old.bank").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(EdgeError, match="not a whole reference bank"):
        read_format_2(path)
