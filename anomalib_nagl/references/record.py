"""The record of a run's references: which images, by path and content, and how they were chosen.

It is plain data: ``selection`` (how references were chosen), ``removed_from_evaluation`` (how many tested
images left because they are references), and one entry for each image with kind, defect type, SHA-256 of its pixels
and its path relative to ``root``, likewise for masks. It goes into the results, the checkpoint and exported files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.references.folders import ReferenceFiles
from anomalib_nagl.references.images import content_hash, image_hash, load_mask
from anomalib_nagl.references.sample import Sample

FORMAT = "anomalib-nagl references 1"
FILE_NAME = "references.json"
_SHOWN = 5


class Recorded(NamedTuple):
    """A record that was read: its images, all of them unchanged, how they were chosen, and the entries."""

    files: ReferenceFiles
    selection: dict[str, Any]
    entries: list[dict[str, str]]


def make_record(
    references: Iterable[Mapping[str, str]], selection: Mapping[str, Any] | None = None, removed: int = 0
) -> dict[str, Any]:
    """Record of ``ReferenceSet.records()``, paths relative to the folder that all of them share."""
    entries = [dict(record) for record in references]
    named = [entry[key] for entry in entries for key in _places(entry) if entry.get(key)]
    parents = [str(Path(name).resolve().parent) for name in named if Path(name).is_file()]
    root = _common(parents)
    for entry in entries:
        for key, place in _places(entry).items():
            if entry.get(key) and Path(entry[key]).is_file():
                entry[place] = _relative(Path(entry.pop(key)).resolve(), root)
    return {
        "format": FORMAT,
        "root": _relative(root, Path.cwd()) if root is not None else "",
        "selection": dict(selection or {}),
        "removed_from_evaluation": removed,
        "references": entries,
    }


def _places(entry: Mapping[str, str]) -> dict[str, str]:
    """Keys that name a file, and what its relative path is called: of an image, its mask, and more masks by number."""
    masks = {key: f"mask_path{key[4:]}" for key in entry if key == "mask" or (key[5:].isdigit() and key[:5] == "mask_")}
    return {"name": "path", **masks}


def _common(parents: list[str]) -> Path | None:
    if not parents:
        return None
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # several drives
        return Path(parents[0])


def _relative(path: Path, start: Path | None) -> str:
    """A path as seen from a folder, with forward slashes; as it is when it lies on another drive."""
    try:
        return PurePath(os.path.relpath(path, start or Path.cwd())).as_posix()
    except ValueError:
        return path.as_posix()


def write_record(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write ``references.json`` into a folder in one step, ``root`` as seen from there; returns its path."""
    path = Path(folder) / FILE_NAME
    root = _relative(Path(record["root"]).resolve(), path.parent.resolve()) if record["root"] else ""
    atomic_write_bytes(path, (json.dumps({**record, "root": root}, indent=2) + "\n").encode())
    return path


def read_record(path: str | Path) -> Recorded:
    """Find the images of a record again; ValueError names those that are missing or have changed.

    They are looked for below its ``root`` as seen from the file, then beside the file, then below the working folder.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = [dict(entry) for entry in record["references"]]
        selection, written = dict(record["selection"]), record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"found a file that is no record of references: {path} ({error!r}); expected the references.json of a run, "
            "or a folder of images"
        ) from error
    if written != FORMAT:
        raise ValueError(f"found {path} of format {written!r}, expected {FORMAT!r}: use the version that wrote it")
    places = [path.parent / record["root"], path.parent, Path.cwd()]
    problems: list[str] = []
    # Synthetic references are made anew.
    found = [_find(entry, places, problems) for entry in entries if entry.get("mask_source") != "synthetic"]
    if problems:
        more = f" ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"found {len(problems)} references of {path} missing or changed, expected all as they were: "
            f"{'; '.join(problems[:_SHOWN])}{more}. Put them back, or choose references anew"
        )
    return Recorded(
        ReferenceFiles(
            path.as_posix(),
            tuple(Sample(image) for image, _, entry in found if entry["kind"] == "normal"),
            tuple(
                Sample(image, masks[0] if masks else None, entry["defect_type"], masks[1:])
                for image, masks, entry in found
                if entry["kind"] != "normal"
            ),
        ),
        selection,
        entries,
    )


def _find(
    entry: dict[str, str], places: list[Path], problems: list[str]
) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Image and mask files of an entry where they lie now; what is wrong with them goes to ``problems``."""
    image = _locate(entry.get("path", ""), places)
    if image is None:
        where = f", not found in {places[0].as_posix()}" if entry.get("path") else ", which never was a file"
        problems.append(f"{entry.get('path') or entry.get('name')} is missing{where}")
        return "", (), entry
    if image_hash(image) != entry["sha256"]:
        problems.append(f"{image} has changed")
    keys = sorted((key for key in entry if key.startswith("mask_path")), key=lambda key: (len(key), key))
    named = [entry[key] for key in keys if entry[key]]
    found = {name: _locate(name, places) for name in named}
    masks = tuple(path for path in found.values() if path is not None)
    problems += [f"mask {name} is missing" for name, path in found.items() if path is None]
    if (
        masks
        and len(masks) == len(named)
        and content_hash(load_mask(masks, image).float()[None]) != entry["mask_sha256"]
    ):
        problems.append(f"mask {masks[0]} has changed")
    return image, masks, entry


def _locate(relative: str, places: list[Path]) -> str | None:
    if not relative:
        return None
    paths = [place / relative for place in places]
    return next((Path(os.path.normpath(path)).as_posix() for path in paths if path.is_file()), None)
