"""References as people have them: plain folders, images of every kind, masks or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image
from PIL import Image
from support.commands import CONFIGS, anomalib
from support.reference_folders import FOLDER, GABOR, copy_references, save

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.references.folders import scan
from anomalib_nagl.references.images import as_image, load_image, load_mask


@pytest.fixture
def part(drawn: Path, folder: Path) -> Path:
    """A folder of references as a person would make it, beside a folder of new images."""
    copy_references(drawn, folder)
    return folder


def test_a_folder_is_read_with_its_masks(part: Path) -> None:
    found = ReferenceSet.from_folder("references")
    assert found.names[:2] == ("references/normal/000.png", "references/normal/001.png")
    assert found.defect_types == ("missing", "spot")
    assert tuple(image.mask_name for image in found.images[2:]) == (
        "references/abnormal/missing/b_mask.png",
        "references/masks/spot/a.png",
    )
    assert all(mask is not None and mask.any() for mask in found.masks)


def test_masks_are_matched_by_stem(part: Path) -> None:
    spot = Path("references/abnormal/spot")
    for name in ("a_1", "a10"):
        shutil.copy(spot / "a.png", spot / f"{name}.png")
    for name in ("a_1_mask", "a10-drawn by hand"):
        shutil.copy("references/masks/spot/a.png", f"references/masks/spot/{name}.png")
    pairs = {Path(f.image).stem: Path(f.mask).stem for f in scan("references").check().abnormal if f.mask}
    assert pairs == {"a": "a", "a_1": "a_1_mask", "a10": "a10-drawn by hand", "b": "b_mask"}


def remove_normal(part: Path) -> None:
    shutil.rmtree(part / "references/normal")
    shutil.rmtree(part / "references/masks")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda part: shutil.rmtree(part / "references"), "no folder references, expected references there"),
        (lambda part: [shutil.rmtree(p) for p in (part / "references").iterdir()], "no reference images in it"),
        (lambda part: (part / "references/abnormal/spot/a.png").unlink(), "a.png: a mask that belongs to no"),
        (lambda part: shutil.copytree("references/masks/spot", "references/masks/sopt"), "masks of 'sopt'.*rename"),
        (lambda part: shutil.copy("references/abnormal/spot/a.png", "references/abnormal/spot/a.bmp"),
         "a mask that fits a.bmp and a.png"),
        (lambda part: (part / "references/normal/x.png").write_text("no"), "x.png: cannot be read as an image"),
        (remove_normal, "no mask, and no normal image"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_listed(part: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(part)
    with pytest.raises(ValueError, match=message):
        ReferenceSet.from_folder("references")


def test_every_problem_is_counted_and_the_first_are_named(part: Path) -> None:
    for number in range(8):
        save(f"references/masks/spot/stray{number}.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"found 8 problems.*stray0.*stray4.*and 3 more"):
        ReferenceSet.from_folder("references")


def test_other_files_are_left_out(part: Path) -> None:
    Path("references/normal/notes.txt").write_text("taken on Monday")
    Path("references/normal/.hidden.png").write_text("")
    files = scan("references").check()
    assert len(files.normal) == 2
    assert [problem.found for problem in files.problems] == ["not an image by its name"]


def ramp() -> np.ndarray:
    return (np.arange(60).reshape(5, 12) * 1000).astype(np.uint16)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(folder: Path, extension: str) -> None:
    save(f"deep.{extension}", ramp())
    assert torch.allclose(load_image(f"deep.{extension}"), torch.from_numpy(ramp() / 65535).float().expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "webp"])
def test_any_picture_is_read_as_anomalib_reads_it(folder: Path, mode: str, extension: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    try:
        Image.fromarray(noise).convert(mode).save(f"a.{extension}")
    except (OSError, KeyError):
        pytest.skip(f"Pillow cannot write {mode} as {extension}")
    expected = read_image(f"a.{extension}", as_tensor=True).as_subclass(torch.Tensor)
    assert torch.equal(load_image(f"a.{extension}"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_image_and_mask(folder: Path, orientation: int) -> None:
    upright = np.zeros((6, 9), np.uint8)
    upright[1, 2:5] = 255
    upright[3, 7] = 255
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # the turn that undoes it
    exif = Image.Exif()
    exif[0x0112] = back
    save("turn.png", upright, exif=exif)
    stored = (load_image("turn.png")[0].numpy() * 255).astype(np.uint8)  # as a camera held that way would store it
    exif[0x0112] = orientation
    save("photo.png", stored, exif=exif)
    save("mask.png", stored)  # drawn by a program that ignores orientation
    save("mask_turned.png", stored, exif=exif)
    assert np.array_equal(load_image("photo.png")[0].numpy() * 255, upright)
    for name in ("mask.png", "mask_turned.png"):
        assert np.array_equal(load_mask(name, "photo.png").numpy() * 255, upright), name
    if stored.shape != upright.shape:
        save("mask_upright.png", upright)
        assert np.array_equal(load_mask("mask_upright.png", "photo.png").numpy() * 255, upright)


@pytest.mark.parametrize(
    "given",
    [
        np.full((4, 5), 0.5, np.float32),
        np.full((4, 5, 3), 0.5),
        torch.full((3, 4, 5), 0.5),
        torch.full((1, 1, 4, 5), 0.5),
        np.full((4, 5, 4), 65535 / 2).astype(np.uint16),
        Image.fromarray(np.full((4, 5), 32768, np.uint16)),
    ],
)
def test_pictures_in_memory(given: object) -> None:
    assert torch.allclose(as_image(given), torch.full((3, 4, 5), 0.5), atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((4, 5), 128.0), "values from 128 to 128 .* expected 0 to 1"),
        (np.full((4, 5), np.nan), "values from nan"),
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\)"),
        (np.zeros((4, 5), np.int64), "type int64"),
        ("nothing.png", "cannot be read as an image: nothing.png"),
    ],
)
def test_other_things_are_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_image(given)


def untrained() -> str:
    """A head with the right names; normal references do not use it."""
    torch.save(Nagl("gabor", image_size=256).model.head.state_dict(), "head.pth")
    return "head.pth"


def test_pictures_are_inspected_in_one_command(part: Path) -> None:
    Path("new").rename("new_pictures")
    cli = anomalib(
        "predict",
        "--config",
        CONFIGS / "references.yaml",
        *GABOR[2:],
        "--model.head",
        untrained(),
        "--data.n_abnormal",
        0,
    )
    assert [Path(record["name"]).name for record in cli.model.references] == ["000.png", "001.png"]
    assert len(cli.datamodule.test_data) == 2
    known, new = (cli.model.predict(path).raw_score for path in ("references/normal/000.png", "new_pictures/spot.png"))
    assert known < 0.5 * new  # an image that is its own reference


def test_references_without_a_target_make_a_checkpoint(part: Path) -> None:
    cli = anomalib("train", *GABOR, *FOLDER, "--data.n_abnormal", 0)
    checkpoint = Path(cli.engine.trainer.checkpoint_callback.best_model_path)
    model = Nagl.load_from_checkpoint(checkpoint)
    assert len(model.model.reference_images) == 2
    anomalib("predict", *GABOR, "--ckpt_path", checkpoint, "--data", "ReferenceDataModule", "--data.pictures", "new")


def test_a_folder_with_a_target_and_copies_among_its_test_pictures(part: Path, drawn: Path) -> None:
    cli = anomalib(
        "train", *GABOR, *FOLDER, "--data.n_abnormal", 0, "--data.target", "MVTecAD", "--data.target.root", drawn,
        "--data.target.category", "plug", "--data.target.num_workers", 0,
    )  # fmt: skip
    assert len(cli.datamodule.test_data) == 40  # normal references are no test images
    shutil.copy(drawn / "plug/test/good/003.png", "references/normal/renamed.png")
    again = anomalib(
        "train", *GABOR, *FOLDER, "--data.n_abnormal", 0, "--data.target", "MVTecAD", "--data.target.root", drawn,
        "--data.target.category", "plug", "--data.target.num_workers", 0,
    )  # fmt: skip
    assert not any(path.endswith("good/003.png") for path in again.datamodule.test_data.samples.image_path)
    assert again.datamodule.removed == 1


def test_python_without_an_engine(part: Path) -> None:
    model = Nagl("gabor", image_size=256)
    model.set_references(ReferenceSet(normal=ReferenceSet.from_folder("references").normal))
    found = [model.predict(given) for given in ("new/spot.png", Image.open("new/spot.png"), load_image("new/spot.png"))]
    assert len({one.raw_score for one in found}) == 1
    assert found[0].anomaly_map.shape == (192, 192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "ReferenceDataModule"), "neither a target nor references"),
        ((*FOLDER, "--data.n_normal", 3), "found 2 normal images in references and n_normal=3"),
        ((*FOLDER, "--data.masks", "some"), "masks='some', expected one of auto, whole, required"),
        ((*FOLDER, "--data.pictures", "none"), "no image in none"),
    ],
)
def test_bad_settings_say_what_to_do(part: Path, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anomalib("predict", *GABOR, *arguments)
