"""Image files on the box and on torch's side: the same pixels, masks, hashes and refusals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import nagl
from support.exported import defect_mask, picture, pixels

from anomalib_nagl.edge import EdgeError, NaglEdge
from anomalib_nagl.io.arrays import as_image, as_mask, content_hash, eight_bit, read_image, read_mask
from anomalib_nagl.io.panel import MARGIN, shrink
from anomalib_nagl.references.images import content_hash as torch_hash
from anomalib_nagl.references.images import load_image, load_mask, read_header

RGB = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65_536, (40, 32)).astype(np.uint16)
MARKS = np.zeros((40, 32), np.uint8)
MARKS[2:9, 20:30] = 255
# As each orientation is seen, from what is stored.
SEEN = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}


def save(path: Path, array: np.ndarray | Image.Image, orientation: int = 1, **options: object) -> Path:
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, exif=exif, **options)
    return path


def assert_read_alike(path: Path) -> np.ndarray:
    """Both sides read the same image, bit for bit; it is returned as (H, W, 3) in [0, 1]."""
    found, expected = as_image(path), load_image(path)
    assert found.tobytes() == expected.numpy().tobytes()
    assert found.shape == tuple(expected.shape)
    assert content_hash(found) == torch_hash(expected)
    return found.transpose(1, 2, 0)


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize(
    ("name", "stored", "seen"),
    [
        ("rgb.png", RGB, RGB / 255),
        ("rgb.jpg", RGB, None),
        ("rgb.tif", RGB, RGB / 255),
        ("rgb.webp", RGB, None),
        ("grey.png", GREY, GREY / 255),
        ("palette.png", Image.fromarray(GREY).convert("P"), GREY / 255),
        ("rgba.png", np.dstack([RGB, GREY]), RGB / 255),
        ("la.png", np.dstack([GREY, RGB[..., 1]]), GREY / 255),
        ("deep.png", DEEP, DEEP / 65_535),
        ("grey.tif", GREY, GREY / 255),
        ("deep.tif", DEEP, DEEP / 65_535),
        ("float.tif", (DEEP / 65_535).astype(np.float32), DEEP / 65_535),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_both_sides_read_the_same(
    name: str, stored: np.ndarray | Image.Image, seen: np.ndarray | None, orientation: int, tmp_path: Path
) -> None:
    found = assert_read_alike(save(tmp_path / name, stored, orientation))
    if seen is None:  # lossy
        assert found.shape == SEEN[orientation](RGB).shape
        return
    expected = SEEN[orientation](np.broadcast_to(seen.reshape(40, 32, -1), (40, 32, 3)))
    assert np.abs(found - expected).max() < 1e-6
    assert read_image(tmp_path / name).dtype == (np.float32 if name[0] in "df" else np.uint8)


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("own", [False, True])
def test_a_mask_turns_as_its_picture(orientation: int, kind: str, own: bool, tmp_path: Path) -> None:
    """Drawn on the stored pixels, with an orientation of its own or without; drawn upright it stays (90 degrees)."""
    image = save(tmp_path / f"part.{kind}", RGB, orientation)
    mask = save(tmp_path / f"mask.{kind}", MARKS, orientation if own else 1)
    seen = SEEN[orientation](MARKS) > 0
    assert read_header(image).upright == seen.shape[::-1]
    upright = save(tmp_path / "upright.png", np.ascontiguousarray(SEEN[orientation](MARKS)))
    deep = save(tmp_path / "deep.png", MARKS.astype(np.uint16) * 2)
    for path in (mask, deep, upright) if orientation in (6, 8) else (mask, deep):
        assert np.array_equal(load_mask(path, str(image)).numpy(), seen)
        assert np.array_equal(read_mask(path, image), seen)
    assert np.array_equal(as_mask(mask, image, seen.shape, "part"), seen)
    if not own:  # the image came as an array: nothing to turn by
        assert np.array_equal(read_mask(mask), MARKS > 0)


def bomb(path: Path) -> None:
    Image.MAX_IMAGE_PIXELS = 600
    save(path, RGB)


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (lambda p: p.write_bytes(b"no image"), "a.png", "cannot be read as an image"),
        (lambda p: os.truncate(save(p, RGB), 2000), "a.png", "truncated"),
        (lambda p: os.truncate(save(p, RGB), 600), "a.jpg", "Truncated"),
        (lambda p: os.truncate(save(p, RGB, compression="tiff_lzw"), 900), "a.tif", "cannot be read as an image"),
        (bomb, "a.png", "decompression bomb"),
        (lambda p: None, "a.png", "No such file"),
        (lambda p: save(p, np.full((4, 4), 70_000, np.int32)), "a.tif", "70000 .*integers.*scale it, or store"),
        (lambda p: save(p, np.full((4, 4), -1, np.int32)), "a.tif", "from -1"),
        (lambda p: save(p, np.full((4, 4), 200, np.float32)), "a.tif", "floats.*expected 0 to 1"),
        (lambda p: save(p, np.full((4, 4), np.nan, np.float32)), "a.tif", "nan"),
    ],
)
def test_both_sides_refuse_the_same(
    spoil: object, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    spoil(path := tmp_path / name)
    for read, error in ((as_image, EdgeError), (load_image, ValueError)):
        with pytest.raises(error, match=f"(?s)found .*{name}.*expected .*: ") as found:
            read(path)
        assert found.match(f"(?s){message}")
    if "expected 0" not in message and "integers" not in message and name != "a.tif":
        with pytest.raises(EdgeError, match=r"found a mask that cannot be read.*replace it"):
            read_mask(path)
        with pytest.raises(ValueError, match=r"found a mask that cannot be read.*replace it"):
            load_mask(path, "")


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def test_commands_on_turned_and_deep_pictures(box: Path, tmp_path: Path) -> None:
    """A photograph that lies on its side and a 16-bit image score, show and teach as their upright pixels do."""
    seen, mask = pixels(picture((120, 100), 71, True)), defect_mask((120, 100), 71).numpy() > 0
    (parts := tmp_path / "parts").mkdir()
    save(parts / "photo.jpg", np.ascontiguousarray(np.rot90(seen)), 6, quality=95, subsampling=0)
    deep = seen[..., 0].astype(np.uint16) * 257
    save(parts / "deep.png", deep)
    save(tmp_path / "mask.png", np.ascontiguousarray(np.rot90(mask)).astype(np.uint8) * 255)  # as stored
    photo = eight_bit(load_image(parts / "photo.jpg").numpy()).transpose(1, 2, 0)
    assert np.abs(photo.astype(int) - seen).mean() < 4  # it is the same scene, whatever JPEG lost
    expected = NaglEdge(shutil.copytree(box.parent, tmp_path / "apart") / box.name)
    scores = [expected.predict(p).score for p in (np.dstack([deep] * 3) / 65_535, photo)]

    assert nagl("edge", "predict", str(box), str(parts), "--out", str(tmp_path / "before")) == 0
    before = rows(tmp_path / "before")
    assert before["score"].tolist() == pytest.approx(scores, abs=2e-6)
    for name, shown in (("deep", np.dstack([seen[..., 0]] * 3)), ("photo", photo)):
        overlay = np.asarray(Image.open(tmp_path / "before" / f"{name}.png")).astype(int)
        panel = shrink(shown)
        lowest, right = overlay.shape[0] - MARGIN, MARGIN + panel.shape[1]
        drawn = overlay[lowest - panel.shape[0] : lowest, MARGIN:right]
        assert np.abs(drawn - panel)[1:-1, 1:-1].max() <= 1  # within its frame

    for name, given, file in (("turned", photo, "photo.jpg"), ("deep", np.dstack([deep] * 3) / 65_535, "deep.png")):
        expected.add_abnormal(given, mask, name=name)
        marks = tmp_path / "mask.png" if name == "turned" else save(tmp_path / "upright.png", mask)
        options = ["--image", str(parts / file), "--mask", str(marks), "--name", name]
        assert nagl("edge", "add-defect", str(box), *options) == 0
    found = NaglEdge(box)
    assert [one.sha256 for one in found.references] == [one.sha256 for one in expected.references]
    by_command, by_array = (detector.lesson("turned").pools["marked"] for detector in (found, expected))
    assert by_command.key == by_array.key
    assert 0 < len(by_command) < len(found.lesson("normal 0").pools["normal"])
    assert found.predict(photo).score == pytest.approx(expected.predict(photo).score, abs=1e-5)


def test_commands_never_overwrite_pictures(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (parts := tmp_path / "parts").mkdir()
    save(parts / "a.png", RGB)
    content = (parts / "a.png").read_bytes()
    assert nagl("edge", "predict", str(box), str(parts), "--out", str(parts)) == 2
    assert "which would overwrite it" in capsys.readouterr().err
    assert (parts / "a.png").read_bytes() == content
    for arguments, message in ((["--device", "XYZ"], "expected one of CPU"), (["--requests", "0"], "at least 1")):
        assert nagl("edge", "predict", str(box), str(parts), "--out", str(tmp_path / "out"), *arguments) == 2
        assert message in capsys.readouterr().err
