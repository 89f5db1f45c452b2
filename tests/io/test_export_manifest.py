"""The manifest of an export, as somebody may have edited it: one sentence, whatever is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import read_export_manifest, write_export_manifest

FACTS = {
    "backbone": "none", "head": "none", "grid": [4, 5], "image_size": [40, 50], "dim": 6, "num_proxies": 3,
    "context": True, "shifted_grid": False, "proxies": True, "shared_mining": True, "bank_limit": None, "defects": True,
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "model.xml").write_text("graph")
    facts = {"compatibility": FACTS, "head_trained": True, "outputs": ["pred_score"]}
    write_export_manifest(path := tmp_path / "model.json", [tmp_path / "model.xml"], facts)
    assert read_export_manifest(path)["compatibility"] == FACTS
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("compatibility"), "without compatibility"),
        (lambda c: c.update(compatibility=[]), "whose compatibility is list"),
        (lambda c: c.update(compatibility=None), "whose compatibility is NoneType"),
        *[(lambda c, key=key: c["compatibility"].pop(key), f"facts of a model in .* without {key}")
          for key in ("context", "dim", "grid", "defects", "bank_limit")],
        (lambda c: c["compatibility"].update(grid="4x5"), "whose grid is str"),
        (lambda c: c["compatibility"].update(grid=[4, 0]), r"with grid \[4, 0\], expected two positive sides"),
        (lambda c: c["compatibility"].update(dim=6.0), "whose dim is float"),
        (lambda c: c.update(head_trained=1), "whose head_trained is int"),
        (lambda c: c.update(outputs=[1]), "outputs that are no names"),
        (lambda c: c.update(files=[]), "whose files is list"),
        (lambda c: c["files"].update({"model.xml": 7}), "hash '7', expected a SHA-256"),
        (lambda c: c["files"].update({"model.xml": None}), "hash 'None'"),
        (lambda c: c["files"].update({"model.xml": "0" * 64}), "another content than was exported"),
        (lambda c: c["files"].update({"a" * 5000: "0" * 64}), "expected names of files beside it"),
        (lambda c: c["files"].update({"../model.xml": "0" * 64}), "expected names of files beside it"),
        (lambda c: c["files"].update({"": "0" * 64}), "expected names of files beside it|found no"),
        (lambda c: c["files"].update({"gone.xml": "0" * 64}), r"found no gone\.xml"),
        (lambda c: c.update(format=2), "of format 2, expected 6"),
        (lambda c: c.update(format=None), "of format None, expected 6"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be(change: Callable[[dict[str, Any]], object], message: str, manifest: Path) -> None:
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(EdgeError, match=f"found .*({message})|{message}"):
        read_export_manifest(manifest)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"{", b"\xff", b'{"format": NaN}'])
def test_what_is_no_json(content: bytes, manifest: Path) -> None:
    manifest.write_bytes(content)
    with pytest.raises(EdgeError, match="found a manifest that cannot be read"):
        read_export_manifest(manifest)


@pytest.mark.parametrize("content", [b"[]", b"7", b"null", b'"text"'])
def test_what_is_no_object(content: bytes, manifest: Path) -> None:
    manifest.write_bytes(content)
    with pytest.raises(EdgeError, match="of format None"):
        read_export_manifest(manifest)
