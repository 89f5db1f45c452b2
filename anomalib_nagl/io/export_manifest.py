"""The manifest of an exported model: its facts, and the hash of every file that must not change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.files import atomic_write_bytes, file_hash
from anomalib_nagl.io.given_paths import read_regular
from anomalib_nagl.io.json_values import check_keys, parse_json
from anomalib_nagl.io.model_facts import check_facts

FORMAT = 6
_KINDS: dict[str, type | tuple[type, ...]] = {
    "compatibility": dict, "head_trained": bool, "outputs": list, "files": dict,
}  # fmt: skip
_REMEDY = "copy the whole folder again, or export again"


def companion(model: Path, part: str) -> Path:
    """One of the graphs beside an exported ``NAME.xml``: ``NAME.encoder.xml``, ``NAME.scorer.xml``, ..."""
    return model.with_name(f"{model.stem}.{part}.xml")


def write_export_manifest(path: Path, files: list[Path], facts: dict[str, Any]) -> None:
    """Write the manifest of an exported model: its facts, and the hash of every file that must not change."""
    content = {"format": FORMAT, **facts, "files": {file.name: file_hash(file) for file in files}}
    atomic_write_bytes(path, json.dumps(content, indent=1).encode())


def renew_files(path: Path, files: list[Path]) -> None:
    """Put the present hashes of some files into a manifest."""
    content = json.loads(path.read_bytes())
    content["files"] |= {file.name: file_hash(file) for file in files}
    atomic_write_bytes(path, json.dumps(content, indent=1).encode())


def read_export_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest and compare every file it lists; EdgeError names the first that is missing or was changed."""
    if not path.is_file():
        raise EdgeError(
            f"found no {path.name} in {path.parent}, expected the one that was exported with the model: "
            "copy the whole folder, or export again"
        )
    try:
        content = parse_json(read_regular(path))
    except (ValueError, OSError) as error:
        raise EdgeError(
            f"found a manifest that cannot be read: {path} ({error}), expected the exported one: {_REMEDY}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise EdgeError(f"found {path} of format {str(found)[:40]}, expected {FORMAT}: export the model again")
    whole = check_keys(content, _KINDS, str(path), _REMEDY)
    check_facts(whole["compatibility"], path)
    check_keys(whole["compatibility"], {"defects": bool}, f"facts of a model in {path}", _REMEDY)
    if not all(isinstance(name, str) for name in whole["outputs"]):
        raise EdgeError(f"found {path} with outputs that are no names, expected those of a model: {_REMEDY}")
    for name, expected in whole["files"].items():
        check_file(path.parent / _file_name(name, path), _hash(expected, path))
    return whole


def _file_name(name: str, manifest: Path) -> str:
    """A name of a file beside the manifest: nothing else is looked at."""
    if len(name) > 255 or Path(name).name != name or "\\" in name or "\0" in name:
        raise EdgeError(f"found {manifest} with the file {name[:40]!r}, expected names of files beside it: {_REMEDY}")
    return name


def _hash(expected: object, manifest: Path) -> str:
    if not isinstance(expected, str) or not re.fullmatch("[0-9a-f]{64}", expected):
        raise EdgeError(f"found {manifest} with hash {str(expected)[:40]!r}, expected a SHA-256: {_REMEDY}")
    return expected


def check_file(path: Path, expected: str) -> None:
    """Raise EdgeError unless a file is there and has the hash that was recorded when it was written."""
    if not path.is_file():
        raise EdgeError(f"found no {path.name} in {path.parent}, expected the exported file: copy the whole folder")
    if file_hash(path) != expected:
        raise EdgeError(
            f"found {path} with another content than was exported (truncated, edited, or of another export), expected "
            f"SHA-256 {expected[:12]}...: copy the folder again, or export again"
        )


def exported_model(path: Path) -> Path:
    """The model of an export: the file, or the only one in a folder that has a reference bank beside it."""
    if path.is_file() and path.suffix == ".xml":
        return path
    if path.is_dir():
        banks = [*path.glob("*.bank"), *path.glob("weights/openvino/*.bank")]
        models = sorted(bank.with_suffix(".xml") for bank in banks)
        found = [model for model in models if model.is_file()]
        if len(found) == 1:
            return found[0]
        names = ", ".join(model.name for model in found) or "none"
        raise ValueError(
            f"found {names} in {path}, expected one exported model with its .bank beside it: name the .xml"
        )
    what = "nothing" if not path.exists() else "another file"
    raise ValueError(
        f"found {what} at {path}, expected a checkpoint (.ckpt), the model.xml of an export, or its folder: check the "
        "path"
    )
