"""Files that are no images of a known format: none starts a program, waits for ever or ends in a foreign error."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_nagl.io import image_formats
from anomalib_nagl.io.arrays import as_image, as_mask, read_image, read_mask
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.image_files import decode_opened, is_image_file, read_header
from anomalib_nagl.references.images import load_image, load_mask

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 40\nshowpage\n%%EOF\n"
WITH_PREVIEW = struct.pack("<IIIIIIIHxx", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0, 0xFFFF) + POSTSCRIPT
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
READERS: list[Callable[[Path], object]] = [
    as_image, read_image, read_mask, read_header, load_image, lambda path: load_mask(path, "part"),
]  # fmt: skip


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a false Ghostscript, the first on the path, writes when it is started."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("gs", "gswin32c", "gswin64c", "djpeg"):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> "{folder}/started"\nexit 1\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for anew
    return folder / "started"


@pytest.mark.parametrize("content", [POSTSCRIPT, WITH_PREVIEW], ids=["plain", "preview"])
@pytest.mark.parametrize("name", ["a.eps", "a.png", "a.jpg", "a.tif", "a.bin", "a"])
def test_postscript_starts_nothing(name: str, content: bytes, started: Path, tmp_path: Path) -> None:
    (path := tmp_path / name).write_bytes(content)
    for read in READERS:
        with pytest.raises(EdgeError, match=r"found a .*cannot be read as an image: .*none of PNG, .*expected"):
            read(path)
    with pytest.raises(EdgeError, match="none of PNG"):
        image_formats.check_format(path)
    opened = Image.open(path)  # by somebody else: Pillow would decode it later
    for use in (as_image, lambda image: as_mask(image, PIXELS, (40, 32), "part")):
        with pytest.raises(EdgeError, match=r"Pillow image of format EPS, expected PNG.*convert\('RGB'\)"):
            use(opened)
    assert not started.exists()


def test_the_false_program_would_be_started(started: Path, tmp_path: Path) -> None:
    """What the tests with it prove."""
    (path := tmp_path / "a.png").write_bytes(POSTSCRIPT)
    with pytest.raises((OSError, subprocess.CalledProcessError)), Image.open(path) as opened:
        opened.load()
    assert started.exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"])
def test_the_listed_formats_are_read(kind: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(path := tmp_path / f"a.{kind}")
    assert read_image(path).shape == (40, 32, 3)
    assert is_image_file(path)
    image_formats.check_format(path)
    path.rename(other := tmp_path / "a.png")  # what it is, the content says
    assert read_image(other).shape == (40, 32, 3)


@pytest.mark.parametrize("kind", ["ico", "tga", "pcx", "dds", "sgi", "im", "jp2", "pdf"])
def test_other_formats_are_not(kind: str, tmp_path: Path) -> None:
    try:
        Image.fromarray(PIXELS).save(path := tmp_path / f"a.{kind}")
    except (KeyError, OSError):
        pytest.skip("Pillow cannot write it here")
    assert not is_image_file(path)
    path.rename(path := tmp_path / "a.png")
    for read in READERS:
        with pytest.raises(EdgeError, match="none of PNG, JPEG, BMP, TIFF, WebP, PNM, GIF"):
            read(path)


def test_the_first_picture_of_several(tmp_path: Path) -> None:
    for name, kind in (("a.jpg", "MPO"), ("a.gif", "GIF"), ("a.tif", "TIFF"), ("a.png", "PNG")):
        first, second = (Image.fromarray(np.full((40, 32, 3), value, np.uint8)) for value in (200, 20))
        first.save(tmp_path / name, format=kind, save_all=True, append_images=[second])
        assert abs(int(read_image(tmp_path / name).mean()) - 200) <= 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """None of them waits for somebody to write."""
    os.mkfifo(pipe := tmp_path / "pipe.png")
    (folder := tmp_path / "folder.png").mkdir()
    (link := tmp_path / "link.png").symlink_to(pipe)
    for path, what in ((pipe, "a pipe"), (link, "a pipe"), (folder, "a folder"), (Path("/dev/zero"), "a device")):
        for read in (*READERS, image_formats.check_format):
            with pytest.raises(EdgeError, match=f"found a .*{what}, no regular file"):
                read(path)


@pytest.mark.parametrize(
    "raised", [NotImplementedError, AttributeError, RuntimeError, struct.error, KeyError, MemoryError]
)
def test_whatever_a_decoder_raises_is_a_sentence(
    raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PIXELS).save(path := tmp_path / "a.png")

    def fail(*arguments: object) -> None:
        raise raised("odd flags")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    for read in READERS:
        if read is not read_header:
            with pytest.raises(EdgeError, match=r"cannot be read as an image: .*a\.png \(.*odd flags"):
                read(path)
    with pytest.raises(EdgeError, match=r"odd flags"):
        decode_opened(Image.open(path))


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif"])
def test_flipped_bits_are_answered_or_refused(kind: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(path := tmp_path / f"a.{kind}")
    content, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = np.frombuffer(content, np.uint8).copy()
        spoilt[generator.integers(0, min(len(content), 300), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(spoilt.tobytes()[: generator.integers(4, len(content) + 1)])
        for read in (read_image, read_mask, read_header):
            try:
                read(path)
            except EdgeError:
                refused += 1
    assert refused > 0


def test_pixels_are_limited_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(path := tmp_path / "a.png")
    monkeypatch.setattr(image_formats, "MAX_PIXELS", 40 * 32)
    for read in READERS:
        read(path)
    monkeypatch.setattr(image_formats, "MAX_PIXELS", 40 * 32 - 1)
    for read in READERS:
        with pytest.raises(EdgeError, match=r"an image of 32 x 40 pixels: .*a\.png, expected at most 1279: cut it"):
            read(path)
    with pytest.raises(EdgeError, match=r"32 x 40 pixels"):
        as_image(Image.open(path))


class Raises:
    def __array__(self, *arguments: object, **options: object) -> np.ndarray:
        raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2], [3]], "no array .*rows of one length"),
        (Raises(), r"no array .*Raises: no such thing"),
        (None, "of type object .*NoneType"),
        ([["a", "b"]], "of type <U1 .*list"),
        (b"a.png", r"of type \|S5"),
        (np.array([[object()]]), "of type object"),
    ],
)
def test_what_is_no_array_is_refused_as_image_and_as_mask(given: object, message: str) -> None:
    with pytest.raises(EdgeError, match=f"found an image .*{message}"):
        as_image(given)
    with pytest.raises(EdgeError, match=f"found a mask .*{message}"):
        as_mask(given, PIXELS, (40, 32), "part")


@pytest.mark.parametrize("count", [1, 40 * 32])
def test_a_mask_of_no_numbers_is_refused(count: int) -> None:
    mask = np.ones(40 * 32)
    mask[:count] = np.nan
    with pytest.raises(EdgeError, match=r"no numbers \(NaN, infinity\) for 'part'"):
        as_mask(mask.reshape(40, 32), PIXELS, (40, 32), "part")
