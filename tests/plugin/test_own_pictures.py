"""Folders as people have them: masks by name, copies of images, and names that a data set has too."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder
from PIL import Image
from support.parts import category, engine, model, part, target, write

from anomalib_nagl import ReferenceDataModule
from anomalib_nagl.plugin.datasets import all_categories, samples, shared_images

NUMBERS = (1, 2, 3, 10, 11)


def own_part(root: Path, ending: str = "") -> Path:
    """Ten good images, and five defects whose numbers have no leading zeros."""
    for number in range(10):
        write(root / f"good/{number}.png", part(number)[0])
    for number in NUMBERS:
        image, mask = part(number, defect=True)
        write(root / f"defects/part-{number}.png", image)
        write(root / f"masks/part-{number}{ending}.png", mask)
    return root


def folder_of(root: Path, **settings: object) -> Folder:
    given = {
        "normal_dir": "good", "abnormal_dir": "defects", "mask_dir": "masks", "val_split_mode": "same_as_test",
        "num_workers": 0,
    }  # fmt: skip
    return Folder("own", root=root, seed=0, **{**given, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["", "_mask", ".mask"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_masks_are_paired_by_name(wrapped: bool, ending: str, tmp_path: Path) -> None:
    plain = folder_of(own_part(tmp_path / "own", ending))
    if wrapped:
        data = ReferenceDataModule(plain)
        data.setup()
        table = data.target.test_data.samples
    else:
        engine(tmp_path).train(model(n_abnormal=2), datamodule=plain)
        plain.setup()
        table = plain.test_data.samples
    pairs = {Path(row.image_path).name: row.mask_path for row in table.itertuples() if row.label_index}
    assert {name: Path(mask).name for name, mask in pairs.items()} == {
        f"part-{number}.png": f"part-{number}{ending}.png" for number in NUMBERS
    }
    assert table.attrs["task"] == "segmentation"


def test_masks_that_are_named_otherwise_are_laid_beside_the_images_in_order(tmp_path: Path) -> None:
    root = own_part(tmp_path / "own")
    for number in (10, 11):
        (root / f"defects/part-{number}.png").unlink()
    for path in list((root / "masks").iterdir()):
        path.unlink() if "-1" in path.stem and path.stem != "part-1" else path.rename(path.with_name(f"m_{path.name}"))
    data = folder_of(root)
    module = ReferenceDataModule(data)
    module.setup()
    found = samples(module.target.test_data, 1)  # type: ignore[arg-type]
    assert [Path(one.mask or "").name for one in found] == ["m_part-1.png", "m_part-2.png", "m_part-3.png"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_missing_mask_is_one_sentence(wrapped: bool, tmp_path: Path) -> None:
    root = own_part(tmp_path / "own")
    (root / "masks/part-3.png").unlink()
    write(root / "masks/other.png", part(0, True)[1])
    data = ReferenceDataModule(folder_of(root)) if wrapped else folder_of(root)
    with pytest.raises(ValueError, match=r"other\.png is a mask that belongs to no image.*part-3\.png has no") as told:
        engine(tmp_path).train(model(), datamodule=data)
    assert "\n" not in str(told.value)


def test_several_folders_have_masks_of_their_own(tmp_path: Path) -> None:
    category(tmp_path, "c")
    data = folder_of(
        tmp_path / "c", abnormal_dir=["test/dent", "test/hole"], mask_dir=["ground_truth/dent", "ground_truth/hole"],
        normal_dir="train/good",
    )  # fmt: skip
    module = ReferenceDataModule(data)
    module.setup()
    for one in samples(module.target.test_data, 1):  # type: ignore[arg-type]
        assert Path(one.mask or "").parent.name == Path(one.image).parent.name
        assert Path(one.mask or "").stem == f"{Path(one.image).stem}_mask"


def test_copies_of_the_target_are_no_source(tmp_path: Path) -> None:
    for name in ("a", "b"):
        category(tmp_path, name)
    again = tmp_path / "b/train/good/again.png"  # the same pixels in another file
    Image.open(tmp_path / "a/test/dent/1.png").save(again, compress_level=1)
    assert again.read_bytes() != (tmp_path / "a/test/dent/1.png").read_bytes()
    with pytest.raises(ValueError, match=r"images of the target .* among the sources .*again\.png"):
        ReferenceDataModule(target(tmp_path), target(tmp_path, "b")).episode_datasets()
    again.unlink()
    assert ReferenceDataModule(target(tmp_path), target(tmp_path, "b")).episode_datasets()


def test_shared_images_are_the_same_file_or_the_same_pixels(tmp_path: Path) -> None:
    first, other, small = (
        write(tmp_path / f"{name}.png", part(seed)[0]) for name, seed in (("a", 1), ("b", 2), ("c", 1))
    )
    copied = shutil.copy(first, tmp_path / "renamed.png")
    Image.fromarray(np.asarray(Image.open(small))[:32]).save(small)
    (tmp_path / "linked.png").symlink_to(first)
    listed = [str(copied), str(tmp_path / "linked.png"), str(other), str(small)]
    assert shared_images(listed, [str(first)]) == set(listed[:2])


def test_a_category_of_a_published_name_hides_no_other(tmp_path: Path) -> None:
    for name in ("bottle", "own"):
        category(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert all_categories(target(tmp_path, "own")) == ["bottle", "own"]
