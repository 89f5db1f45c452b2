"""Images that somebody opened with Pillow are what their files are: upright, on both sides, masks too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from anomalib_nagl.io.arrays import as_image, as_mask
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.references.images import as_image as torch_image

RGB = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
MARKS = np.zeros((40, 32), np.uint8)
MARKS[2:9, 20:30] = 255


def save(path: Path, array: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", ["RGB", "L", "I;16"])
def test_opened_as_from_the_file(kind: str, orientation: int, channels: str, tmp_path: Path) -> None:
    if channels == "I;16" and kind in ("jpg", "webp"):
        pytest.skip("has 8 bits")
    array = {"RGB": RGB, "L": RGB[..., 0], "I;16": RGB[..., 0].astype(np.uint16) * 200}[channels]
    path = save(tmp_path / f"a.{kind}", array, orientation)
    expected = as_image(path)
    opened = Image.open(path)
    for _ in range(2):  # the image of the caller stays as it is
        assert as_image(opened).tobytes() == expected.tobytes()
    assert torch_image(Image.open(path)).numpy().tobytes() == expected.tobytes()
    if kind != "tif":  # Pillow scrambles grey ones that it maps into memory and turns
        assert as_image(ImageOps.exif_transpose(Image.open(path))).tobytes() == expected.tobytes()
    if channels == "RGB":
        assert as_image(Image.open(path).convert("RGB")).tobytes() == expected.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("own", [False, True])
def test_masks_turn_with_opened_images(orientation: int, own: bool, tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", RGB, orientation)
    mask = save(tmp_path / "m.png", MARKS, orientation if own else 1)
    size = as_image(image).shape[1:]
    expected = as_mask(mask, image, size, "a")
    for given in (mask, Image.open(mask)):
        for of in (image, Image.open(image)):
            assert np.array_equal(as_mask(given, of, size, "a"), expected)


def test_a_file_that_breaks_off_is_refused_when_it_is_used(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB, 6)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(EdgeError, match=r"found a file that cannot be read as an image: .*a\.png.*truncated"):
        as_image(Image.open(path))
