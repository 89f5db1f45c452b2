"""The manifest of an exported model: its facts, and the hash of every file that must not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write_bytes, file_hash

FORMAT = 3


def companion(model: Path, part: str) -> Path:
    """One of the graphs beside an exported ``NAME.xml``: ``NAME.encoder.xml``, ``NAME.scorer.xml``, ..."""
    return model.with_name(f"{model.stem}.{part}.xml")


def write_export_manifest(path: Path, files: list[Path], facts: dict[str, Any]) -> None:
    """Write the manifest of an exported model: its facts, and the hash of every file that must not change."""
    content = {"format": FORMAT, **facts, "files": {file.name: file_hash(file) for file in files}}
    atomic_write_bytes(path, json.dumps(content, indent=1).encode())


def read_export_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest and compare every file it lists; EdgeError names the first that is missing or was changed."""
    if not path.is_file():
        raise EdgeError(
            f"found no {path.name} in {path.parent}, expected the one that was exported with the model: "
            "copy the whole folder, or export again"
        )
    try:
        content = json.loads(path.read_bytes())
        found, files = content["format"], dict(content["files"])
        missing = {"compatibility", "head_trained", "outputs"} - set(content)
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeError(
            f"found a manifest that cannot be read: {path} ({error}), expected the exported one: copy the folder again"
        ) from error
    if found != FORMAT:
        raise EdgeError(f"found {path} of format {found}, expected {FORMAT}: export the model again")
    if missing:
        raise EdgeError(f"found {path} without {', '.join(sorted(missing))}, expected a whole one: export again")
    for name, expected in files.items():
        check_file(path.parent / name, expected)
    return dict(content)


def check_file(path: Path, expected: str) -> None:
    """Raise EdgeError unless a file is there and has the hash that was recorded when it was written."""
    if not path.is_file():
        raise EdgeError(f"found no {path.name} in {path.parent}, expected the exported file: copy the whole folder")
    if file_hash(path) != expected:
        raise EdgeError(
            f"found {path} with another content than was exported (truncated, edited, or of another export), expected "
            f"SHA-256 {expected[:12]}...: copy the folder again, or export again"
        )
