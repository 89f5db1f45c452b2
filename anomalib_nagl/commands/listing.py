"""Images of any number: paths as everywhere, and buckets through fsspec, listed folder by folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anomalib_nagl.commands.inspection import Source, sources_of
from anomalib_nagl.io.arrays import decoder
from anomalib_nagl.io.errors import EdgeError


def is_url(given: str) -> bool:
    """Whether this names something in a bucket, as in ``s3://bucket/folder``, and not a path."""
    return "://" in given


def listed(given: Iterable[str]) -> Iterator[Source]:
    """Images by paths and URLs, folders in the order of their names; EdgeError where there is none.

    Of URLs only one folder at a time is kept in memory.
    """
    found = False
    several = list(given)
    for source in sources_of([Path(one) for one in several if not is_url(one)]) if _paths(several) else ():
        found = True
        yield source
    for url in filter(is_url, several):
        for source in _in_bucket(url):
            found = True
            yield source
    if not found:
        raise EdgeError(f"found no images at {', '.join(several)}, expected files such as PNG or JPEG: check the place")


def _paths(given: list[str]) -> bool:
    return any(not is_url(one) for one in given)


def _in_bucket(url: str) -> Iterator[Source]:
    try:
        filesystem, path = _engine().core.url_to_fs(url)
        if not filesystem.exists(path):
            reason = f"found nothing at {url}, expected an image or a folder of images: check the address"
            yield Source(url, url, EdgeError(reason))
        elif filesystem.isdir(path):
            yield from _in_folder(filesystem, path)
        else:
            yield Source(url, url)
    except (ImportError, OSError, ValueError) as error:  # the last of a protocol that nobody knows
        raise EdgeError(
            f"found no way to list {url} ({' '.join(str(error).split())}), expected a bucket that fsspec can read: "
            "install what it names, or check address and rights"
        ) from error


def _in_folder(filesystem: Any, path: str) -> Iterator[Source]:
    entries = filesystem.ls(path, detail=True)
    for entry in sorted(entries, key=lambda one: str(one["name"]).rstrip("/").rpartition("/")[2]):
        name = str(entry["name"]).rstrip("/")
        if entry["type"] == "directory":
            yield from _in_folder(filesystem, name)
        elif not name.rpartition("/")[2].startswith(".") and decoder().is_image_file(name):
            url = str(filesystem.unstrip_protocol(name))
            yield Source(url, url)


def opened(source: Source) -> Source:
    """The same image with its content in memory if it lies in a bucket, or with the reason why that cannot be had."""
    if source.error is not None or not isinstance(source.given, str):
        return source
    try:
        with _engine().open(source.given, "rb") as file:
            return Source(source.name, decoder().decode_bytes(file.read(), source.name))
    except EdgeError as error:
        return source._replace(error=error)
    except (OSError, ImportError) as error:
        reason = f"found an image that cannot be read: {source.name} ({error}), expected its content: check the rights"
        return source._replace(error=EdgeError(reason))


def _engine() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise EdgeError(
            "found no fsspec here, expected it for images in buckets: pip install 'anomalib-nagl[cluster]'"
        ) from error
    return fsspec
