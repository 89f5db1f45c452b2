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
from anomalib_nagl.io.given_paths import read_regular
from anomalib_nagl.io.json_values import check_keys, parse_json
from anomalib_nagl.references.folders import ReferenceFiles
from anomalib_nagl.references.images import content_hash, image_hash, load_mask
from anomalib_nagl.references.sample import Sample

FORMAT = "anomalib-nagl references 1"
FILE_NAME = "references.json"
_SHOWN = 5
_REMEDY = "use the file as the run wrote it, or choose references anew"
# Parts of a selection that are used again, where they are there.
_SELECTION: dict[str, type | tuple[type, ...]] = {
    "strategy": str, "masks": str, "synthetic": str, "synthetic_abnormal": int, "seed": int,
}  # fmt: skip


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
    record = _read(path)
    entries, selection = record["references"], record["selection"]
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


def _read(path: Path) -> dict[str, Any]:
    """What a record says, all of it of the types that were written; ValueError otherwise."""
    try:
        record = parse_json(read_regular(path).decode("utf-8"))
        written = record["format"] if isinstance(record, dict) else None
        if not isinstance(written, str):
            raise ValueError("it has no format")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"found a file that is no record of references: {path} ({error!r}); expected the references.json of a run, "
            "or a folder of images"
        ) from error
    if written != FORMAT:
        raise ValueError(f"found {path} of format {written[:40]!r}, expected {FORMAT!r}: use the version that wrote it")
    found = check_keys(record, {"root": str, "selection": dict, "references": list}, str(path), _REMEDY)
    for number, entry in enumerate(found["references"]):
        what = f"reference {number} of {path}"
        texts = check_keys(entry, {"kind": str, "defect_type": str, "sha256": str}, what, _REMEDY)
        if texts.get("mask_path"):
            check_keys(entry, {"mask_path": str, "mask_sha256": str}, what, _REMEDY)
        wrong = [key for key, value in entry.items() if not isinstance(value, str)]
        if wrong or texts["kind"] not in ("normal", "abnormal"):
            raise ValueError(
                f"found {what} with {', '.join(wrong) or 'kind'} that cannot be, expected text as a run writes it: "
                f"{_REMEDY}"
            )
        climbing = [key for key in ("path", *_numbered(entry)) if ".." in PurePath(entry.get(key, "")).parts]
        if climbing:
            raise ValueError(
                f"found {what} with a {climbing[0]} that climbs out of its root, expected one below it: {_REMEDY}"
            )
    given = {key: kind for key, kind in _SELECTION.items() if key in found["selection"]}
    check_keys(found["selection"], given, f"the selection of {path}", _REMEDY)
    return found


def _numbered(entry: Mapping[str, str]) -> list[str]:
    """Keys of masks."""
    return sorted((key for key in entry if key.startswith("mask_path")), key=lambda key: (len(key), key))


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
    named = [entry[key] for key in _numbered(entry) if entry[key]]
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
    return next((Path(os.path.normpath(path)).as_posix() for path in paths if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into
        return False
