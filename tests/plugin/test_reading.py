"""References and sources are read as queries are; what cannot be read alike, or learned from, is said early."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, ImageBatch, ImageItem, MVTecAD, MVTecLOCO
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from PIL import Image
from support.parts import SIDE, category, engine, learner, model, part, target, write
from torchvision.transforms.v2 import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianNoise,
    Grayscale,
    Lambda,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    Transform,
)

from anomalib_nagl import Nagl, ReferenceDataModule
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.references.images import image_hash, load_image, load_mask
from anomalib_nagl.references.record import read_record


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        category(tmp_path, name)
    return tmp_path


class Region(MVTecADDataset):
    """Reads the left half alone, at a quarter of the brightness."""

    def __getitem__(self, index: int) -> ImageItem:
        item = super().__getitem__(index)
        item.image = item.image[..., : SIDE // 2] / 4
        item.gt_mask = None if item.gt_mask is None else item.gt_mask[..., : SIDE // 2]
        return item


class Regions(MVTecAD):
    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = Region(self.root, self.category, split="train")
        self.test_data = Region(self.root, self.category, split="test")


def as_query(nagl: Nagl, data: AnomalibDataModule, path: str) -> torch.Tensor:
    """Tokens of an image as the loaders of a run make them."""
    data.setup()
    for split in (data.train_data, data.test_data):
        listed = list(map(str, split.samples.image_path))
        if path in listed:
            split.augmentations = data.test_augmentations
            batch = ImageBatch.collate([split[listed.index(path)]])
            return nagl.model.encode(nagl.pre_processor.transform(batch.image))[0]
    raise AssertionError(path)


KINDS: dict[str, Callable[[Path], AnomalibDataModule]] = {
    "crop": lambda root: target(root, augmentations=CenterCrop(48)),
    "grey": lambda root: target(root, test_augmentations=Grayscale(3)),
    "several": lambda root: target(root, augmentations=Compose([CenterCrop(56), Grayscale(3)])),
    "certain flip": lambda root: target(root, augmentations=RandomHorizontalFlip(1.0)),
    "resize": lambda root: target(root, augmentations=Resize((20, 20))),
    "own reader": lambda root: Regions(root, "a", num_workers=0),
    "own reader and crop": lambda root: Regions(root, "a", num_workers=0, augmentations=CenterCrop(24)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_references_are_made_of_what_queries_are_made_of(kind: str, wrapped: bool, parts: Path, tmp_path: Path) -> None:
    data = KINDS[kind](parts)
    nagl = model(n_abnormal=0, views="none")
    engine(tmp_path / "run").fit(nagl, datamodule=ReferenceDataModule(data, n_abnormal=0) if wrapped else data)
    name = nagl.references[0]["name"]
    # anomalib puts the model's own in the place of a lone resize.
    expected = as_query(nagl, target(parts) if kind == "resize" else KINDS[kind](parts), name)
    assert torch.allclose(nagl.model.normal_bank, expected, atol=1e-5)
    assert nagl.references[0]["sha256"] == image_hash(name)  # a reference is known by its file
    assert read_record(next((tmp_path / "run").rglob("references.json"))).files.normal[0].image


def test_masks_are_cropped_with_their_images(parts: Path, tmp_path: Path) -> None:
    data = Regions(parts, "a", num_workers=0)
    data.setup()
    left = [s for s in samples(data.test_data, 1) if load_mask(s.masks, s.image)[:, : SIDE // 2].any()]  # type: ignore[arg-type]
    nagl = model(n_normal=0, n_abnormal=1)
    for seed in range(9):
        wrapped = ReferenceDataModule(Regions(parts, "a", num_workers=0), n_abnormal=1, seed=seed)
        wrapped.setup()
        chosen = wrapped.support_set
        assert chosen is not None
        if chosen.abnormal[0] in left:
            mask = wrapped.reference_set().masks[0]
            assert mask is not None
            assert torch.equal(mask, load_mask(chosen.abnormal[0].masks, "")[:, : SIDE // 2])
            return
    raise AssertionError(nagl)


def test_references_of_a_folder_are_read_by_the_target(parts: Path, tmp_path: Path) -> None:
    write(tmp_path / "refs/normal/x.png", part(77)[0])
    image, mask = part(78, True)
    write(tmp_path / "refs/abnormal/dent/y.png", image)
    write(tmp_path / "refs/masks/dent/y.png", mask)
    data = ReferenceDataModule(target(parts, augmentations=Resize((32, 32))), references=str(tmp_path / "refs"))
    found = data.reference_set()
    assert found.normal[0].shape == (3, 32, 32)
    assert found.masks[0] is not None
    assert found.masks[0].shape == (32, 32)


@pytest.mark.parametrize(
    "chance",
    [RandomHorizontalFlip(0.1), RandomCrop(32), ColorJitter(0.5), GaussianNoise(),
     Compose([CenterCrop(40), Lambda(lambda image: image * torch.rand(()))])],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_chance_in_the_target_is_refused_before_anything_is_done(
    chance: Transform, wrapped: bool, parts: Path, tmp_path: Path
) -> None:
    data: AnomalibDataModule = target(parts, augmentations=chance)
    nagl = model(n_abnormal=0)
    with pytest.raises(ValueError, match=r"change images at random .*expected the same image every time"):
        engine(tmp_path).fit(nagl, datamodule=ReferenceDataModule(data, n_abnormal=0) if wrapped else data)
    assert not nagl.references


def test_training_transforms_of_a_target_are_said_to_be_unused(
    parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine(tmp_path).fit(model(), datamodule=target(parts, train_augmentations=RandomCrop(40)))
    assert "train_augmentations of MVTecAD a are not used" in caplog.text


def trained(root: Path, place: Path, transform: Transform | None, **settings: Any) -> dict[str, torch.Tensor]:
    source = [target(root, "b", train_augmentations=transform), target(root, "c", train_augmentations=transform)]
    data = ReferenceDataModule(target(root), source, episodes=6, validation_categories=["c"], validation_episodes=4)
    nagl = learner(**settings)
    engine(place).fit(nagl, datamodule=data)
    return nagl.model.head.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_training_transforms_of_a_source_are_used_and_the_cache_is_not(
    parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(parts, tmp_path, None)
    with caplog.at_level(logging.WARNING):
        flipped = trained(parts, tmp_path, RandomHorizontalFlip(1.0))
        by_chance = trained(parts, tmp_path, RandomHorizontalFlip(0.5))
    assert "Images of MVTecAD b are augmented" in caplog.text
    assert "the token cache is not used" in caplog.text
    assert not same(plain, flipped)
    assert not same(flipped, by_chance)
    torch.rand(3)
    assert same(by_chance, trained(parts, tmp_path, RandomHorizontalFlip(0.5)))


def test_a_crop_that_loses_the_defect_is_not_used(parts: Path) -> None:
    source = target(parts, "b", train_augmentations=RandomCrop(8))
    episodes, _ = ReferenceDataModule(target(parts), source).episode_datasets()
    for number in range(12):
        item = episodes[number]
        assert item.ref_mask is not None
        assert item.ref_mask.any()
        assert bool(item.gt_mask.any()) == bool(item.gt_label)
        assert item.image.shape[-1] in (8, SIDE)


def test_bad_masks_of_a_source_are_all_listed_before_the_first_step(parts: Path, tmp_path: Path) -> None:
    masks = parts / "b/ground_truth"
    write(masks / "dent/0_mask.png", np.zeros((SIDE, SIDE), np.uint8))
    write(masks / "hole/2_mask.png", np.full((SIDE, 30), 255, np.uint8))
    (masks / "hole/3_mask.png").write_text("no image")
    nagl, steps = learner(), []
    nagl.training_step = lambda *_: steps.append(1)  # type: ignore[method-assign,assignment]
    with pytest.raises(ValueError, match="found 3 defects of the source") as raised:
        engine(tmp_path).fit(nagl, datamodule=ReferenceDataModule(target(parts), target(parts, "b"), episodes=2))
    assert not steps
    for name in ("dent/0_mask.png", "hole/2_mask.png", "hole/3_mask.png"):
        assert name in str(raised.value)


def test_types_of_a_folder_with_several_places_of_defects(parts: Path, tmp_path: Path) -> None:
    def data(places: Any) -> Folder:
        return Folder("f", root=parts / "b", normal_dir="train/good", abnormal_dir=places, num_workers=0, seed=0)

    wrapped = ReferenceDataModule(data(["test/dent", "test/hole"]), n_abnormal=4, strategy="per_type")
    nagl = model()
    engine(tmp_path / "run").train(nagl, datamodule=wrapped)
    assert {record["defect_type"] for record in nagl.references} == {"good", "dent", "hole"}
    one = data("test/dent")
    one.setup()
    assert {sample.defect_type for sample in samples(one.test_data, 1)} == {"abnormal"}  # type: ignore[arg-type]


def test_several_masks_of_an_image_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "box"
    for kind, count in (("train/good", 3), ("validation/good", 1), ("test/good", 2)):
        for number in range(count):
            write(home / kind / f"{number}.png", part(number)[0])
    spots = np.zeros((2, SIDE, SIDE), np.uint8)
    spots[0, :9, :9], spots[1, 40:50, 40:50] = 255, 250
    for kind in ("logical_anomalies", "structural_anomalies"):
        for number in range(2):
            write(home / "test" / kind / f"{number}.png", part(9 + number, True)[0])
            for place, spot in enumerate(spots):
                write(home / "ground_truth" / kind / f"{number}" / f"{place:03}.png", spot)
    with pd.option_context("future.infer_string", False):  # text columns take no lists, which anomalib's LOCO writes
        nagl = model(n_abnormal=2)
        data = MVTecLOCO(tmp_path, "box", num_workers=0)
        run = engine(tmp_path / "run")
        run.fit(nagl, datamodule=data)
        masks = [batch.gt_mask[batch.gt_label.bool()] for batch in run.predict(nagl, datamodule=data)]
    union = torch.from_numpy(spots).any(0)
    assert all(torch.equal(mask.bool(), union) for batch in masks for mask in batch)
    assert [record["mask_source"] for record in nagl.references[1:]] == ["given", "given"]
    assert all(record["mask_2"].endswith("001.png") for record in nagl.references[1:])
    files = read_record(next((tmp_path / "run").rglob("references.json"))).files  # which compares their content
    assert all(len(sample.masks) == 2 for sample in files.abnormal)
    assert torch.equal(load_mask(files.abnormal[0].masks, files.abnormal[0].image).bool(), union)


def test_orientation_is_read_alike_by_custom_transforms_too(parts: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in sorted((parts / "a/train/good").iterdir()):
        Image.open(path).resize((40, 60)).save(path, exif=exif)
    data = ReferenceDataModule(target(parts, augmentations=CenterCrop(30)), n_abnormal=0)
    data.setup()
    assert data.support_set is not None
    expected = CenterCrop(30)(load_image(data.support_set.normal[0].image))
    assert torch.equal(data.reference_set().normal[0], expected)
