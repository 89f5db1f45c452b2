"""Which images a command was given, and how the files that are made of them are called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib_nagl.io.arrays import decoder
from anomalib_nagl.io.errors import EdgeError

LONGEST = 200  # bytes of a name; systems take 255, and the file has a longer one while it is written


class Item(NamedTuple):
    """An image to read, or a path under which there is none, and why."""

    path: Path
    error: Exception | None = None


def find_items(paths: Iterable[Path]) -> list[Item]:
    """Images and those in folders. What is missing among others is listed with its reason; EdgeError for nothing else.

    That is: a mistyped name is a wrong call, a file that went away since is an image that failed.
    """
    items = [item for path in paths for item in _items(path)]
    if items and all(item.error is not None for item in items):
        raise EdgeError(str(items[0].error))
    return items


def _items(path: Path) -> Iterator[Item]:
    try:
        if path.is_dir():
            yield from _in_folder(path)
        elif os.path.lexists(path):  # whatever it is: reading it says so
            yield Item(path)
        else:
            yield Item(
                path, EdgeError(f"found nothing at {path}, expected an image or a folder of images: check the path")
            )
    except OSError as error:
        reason = f"found a path that cannot be followed: {path} ({error.strerror}), expected an image: check the path"
        yield Item(path, EdgeError(reason))


def _in_folder(folder: Path) -> Iterator[Item]:
    found = decoder().find_images(folder)
    if not found:
        yield Item(
            folder, EdgeError(f"found no images in {folder}, expected files such as PNG or JPEG: check the folder")
        )
    for path in found:
        closed = path.is_dir()
        reason = f"found a folder that cannot be listed: {path}, expected one that may be read: change its permissions"
        yield Item(path, EdgeError(reason) if closed else None)


def overlay_names(images: Sequence[Path]) -> list[str]:
    """A file name for every overlay; images of one name in several folders get numbers."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    names = []
    for path in images:
        stem = os.fsdecode(os.fsencode(path.stem)[:LONGEST])
        name, count = f"{stem}.png", last.get(stem.lower(), 1)
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}.png"
        last[stem.lower()] = count
        taken.add(name.lower())
        names.append(name)
    return names


def check_out(out: Path, images: Sequence[Path], overlays: Sequence[Path]) -> None:
    """Raise EdgeError if the folder of the results is none, or an overlay would be written over one of the images."""
    if out.exists() and not out.is_dir():
        raise EdgeError(f"found a file at {out}, expected a folder for the results: choose another --out")
    given = {os.path.realpath(path) for path in images}
    for overlay in overlays:
        if os.path.realpath(overlay) in given:
            raise EdgeError(
                f"found the image {overlay} in the folder of the results, which would overwrite it; expected a "
                "folder without the images that are predicted: choose another --out"
            )
