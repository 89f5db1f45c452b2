"""Folders of references in folders, several masks for an image, masks on layers: used, or listed with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.commands import anomalib
from support.parts import SIDE, part, write
from support.reference_folders import FOLDER, GABOR

from anomalib_nagl import ReferenceDataModule, ReferenceSet
from anomalib_nagl.commands.references import main
from anomalib_nagl.references.folders import scan
from anomalib_nagl.references.images import load_mask


def references(*images: str, masks: tuple[str, ...] = ()) -> Path:
    """A folder of references with these images and masks."""
    for number, name in enumerate(images):
        write(Path("references") / name, part(number, name.startswith(("abnormal", "defects")))[0])
    for number, name in enumerate(masks):
        spot = np.zeros((SIDE, SIDE), np.uint8)
        spot[5 * number : 5 * number + 4, :9] = 255
        write(Path("references") / name, spot)
    return Path("references")


def found() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and masks of every abnormal image, paths as seen from the folder."""
    files = scan("references").check()
    return {
        s.image.removeprefix("references/"): (s.defect_type, tuple(m.removeprefix("references/") for m in s.masks))
        for s in files.abnormal
    }


def test_images_in_folders_of_any_depth_are_used(folder: Path) -> None:
    references("normal/a.png", "normal/monday/a.png", "normal/monday/late/b.png", "abnormal/x.png",
               "abnormal/dent/y.png", "abnormal/dent/line1/y.png", "abnormal/dent/line1/z.png",
               masks=("masks/dent/y.png", "masks/dent/line1/y.png", "masks/dent/z_mask.png"))  # fmt: skip
    assert len(scan("references").normal) == 3
    assert found() == {
        "abnormal/x.png": ("defect", ()),
        "abnormal/dent/y.png": ("dent", ("masks/dent/y.png",)),
        "abnormal/dent/line1/y.png": ("dent", ("masks/dent/line1/y.png",)),
        "abnormal/dent/line1/z.png": ("dent", ("masks/dent/z_mask.png",)),
    }


def test_several_masks_of_an_image_are_one(folder: Path) -> None:
    references("normal/a.png", "abnormal/dent/x.png", "abnormal/y.png", masks=(
        "masks/dent/x/000.png", "masks/dent/x/001.png", "masks/y_1.png", "ground_truth/y_2.png",
        "abnormal/dent/x_mask.png",
    ))  # fmt: skip
    assert len(found()["abnormal/dent/x.png"][1]) == 3
    assert len(found()["abnormal/y.png"][1]) == 2
    read = ReferenceSet.from_folder("references")
    assert [int(mask.sum()) for mask in read.masks if mask is not None] == [2 * 36, 3 * 36]


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (("abnormal/dent/a/x.png", "abnormal/dent/b/x.png"), ("masks/dent/x.png",), "a mask that fits .*a/x.png and"),
        (("abnormal/dent/x.png",), ("masks/dent/deep/other.png",), "other.png: a mask that belongs to no image"),
        (("abnormal/dent/x.png",), ("masks/dint/deep/x.png",), "masks of 'dint', of which no image is"),
        (("abnormal/dent/x.png",), ("masks/x.png",), "x.png: a mask that belongs to no image"),
        ((), ("masks/x.png",), "x.png: a mask that belongs to no image"),
    ],
)
def test_masks_that_cannot_be_used_are_listed(
    images: tuple[str, ...], masks: tuple[str, ...], message: str, folder: Path
) -> None:
    references("normal/n.png", *images, masks=masks)
    with pytest.raises(ValueError, match=message):
        ReferenceSet.from_folder("references")


WAYS: dict[str, Callable[[], object]] = {
    "folder": lambda: ReferenceSet.from_folder("references"),
    "datamodule": lambda: ReferenceDataModule(references="references").reference_set(),
    "command": lambda: anomalib("train", *GABOR, *FOLDER, "--data.n_abnormal", 1, "--model.variant",
                                "extended-proxies"),
    "check": lambda: main(["check", "references"]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_tells_what_is_not_used_or_looks_wrong(
    way: str, folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    references("normal/a.png", "normal/b.png", "abnormal/dent/x.png", "Monday/c.png", "d.png")
    Path("references/normal/notes.txt").write_text("taken on Monday")
    write(Path("references/masks/dent/x.png"), np.full((SIDE, SIDE), 255, np.uint8))
    with caplog.at_level(logging.WARNING, "anomalib_nagl"):
        WAYS[way]()
    told = caplog.text + capsys.readouterr().out
    for part_of in ("Monday/c.png: an image outside the folders", "references/d.png: an image outside",
                    "notes.txt: not an image by its name", "a mask over 100% of the image"):  # fmt: skip
        assert part_of in told, part_of


def layer(spot: NDArray[np.bool_], colour: int, mode: str) -> Image.Image:
    """The spot painted on a transparent layer."""
    alpha = spot.astype(np.uint8) * 200
    planes = [np.full(spot.shape, colour, np.uint8)] * (3 if mode == "RGBA" else 1)
    return Image.fromarray(np.dstack([*planes, alpha]))


def palette(spot: NDArray[np.bool_], colours: list[int], transparency: int | None = None) -> Image.Image:
    image = Image.fromarray(spot.astype(np.uint8)).convert("P")
    image.putdata(list(map(int, spot.flatten())))
    image.putpalette(colours + [0] * (768 - len(colours)))
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


PAINTED: dict[str, Callable[[NDArray[np.bool_]], Image.Image]] = {
    "white layer": lambda spot: layer(spot, 255, "RGBA"),
    "black layer": lambda spot: layer(spot, 0, "RGBA"),
    "grey layer": lambda spot: layer(spot, 90, "LA"),
    "opaque": lambda spot: Image.fromarray(np.dstack([spot * np.uint8(9)] * 3 + [np.full(spot.shape, 255, np.uint8)])),
    "labels in dark blue": lambda spot: palette(spot, [0, 0, 0, 0, 0, 4]),
    "labels without colours": lambda spot: palette(spot, [0] * 6),
    "labels on a transparent one": lambda spot: palette(spot, [255, 255, 255, 255, 0, 0], transparency=0),
    "blue": lambda spot: Image.fromarray(np.dstack([spot * np.uint8(0)] * 2 + [spot * np.uint8(3)])),
    "bits": lambda spot: Image.fromarray(spot),
    "zero and one": lambda spot: Image.fromarray(spot.astype(np.uint8)),
    "sixteen bits": lambda spot: Image.fromarray(spot.astype(np.uint16) * 300),
}


@pytest.mark.parametrize("kind", PAINTED)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_is_what_is_painted(kind: str, ending: str, folder: Path) -> None:
    spot = np.zeros((12, 9), bool)
    spot[3:7, 2:5] = True
    image = PAINTED[kind](spot)
    if ending == "tif" and kind == "labels on a transparent one":
        pytest.skip("TIFF knows no transparent label")
    image.save(f"mask.{ending}")
    assert np.array_equal(load_mask(f"mask.{ending}", "").numpy() != 0, spot)
