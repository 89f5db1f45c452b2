"""References and episodes: what is drawn, what is left out, and what bad data is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from PIL import Image

from anomalib_nagl import DrawnPictures, Nagl, ReferenceDataModule, ReferenceSet
from anomalib_nagl.core.resizing import keep_thin
from anomalib_nagl.plugin.datasets import all_categories, choose_references
from anomalib_nagl.plugin.episodes import EpisodeBatch, EpisodeDataset, EpochSampler, Pool
from anomalib_nagl.references.sampling import Sample, SupportSet, spread_types


def target(root: Path, category: str = "plate") -> MVTecAD:
    return MVTecAD(root, category, num_workers=0)


@pytest.fixture
def copied(drawn: Path, tmp_path: Path) -> Path:
    """A category that a test may damage."""
    shutil.copytree(drawn / "plate", tmp_path / "plate")
    return tmp_path


def paths(dataset: object) -> set[str]:
    return set(dataset.samples.image_path)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("n", "a"), [(1, 1), (4, 3), (0, 2), (2, 0)])
def test_references_leave_validation_and_test(drawn: Path, n: int, a: int) -> None:
    data = ReferenceDataModule(target(drawn), n_normal=n, n_abnormal=a)
    data.setup()
    assert data.support_set is not None
    assert (len(data.support_set.normal), len(data.support_set.abnormal)) == (n, a)
    assert not data.support_set.paths & (paths(data.test_data) | paths(data.val_data))
    assert len(data.test_data) == 16 + 24 - a
    assert all("train" in sample.image for sample in data.support_set.normal)
    references = data.reference_set()
    assert (len(references.normal), len(references.masks)) == (n, a)


def test_the_seed_decides_the_choice(drawn: Path) -> None:
    choices = []
    for seed in (0, 0, 1, 2):
        data = ReferenceDataModule(target(drawn), n_normal=2, n_abnormal=1, seed=seed)
        data.setup()
        data.setup()  # a second call changes nothing
        choices.append(data.support_set)
    assert choices[0] == choices[1]
    assert len(set(map(str, choices))) > 2


def test_name_and_category_are_those_of_the_target(drawn: Path) -> None:
    data = ReferenceDataModule({"class_path": "MVTecAD", "init_args": {"root": str(drawn), "category": "plug"}})
    assert (data.name, data.category) == ("MVTecAD", "plug")


def test_all_categories() -> None:
    assert set(all_categories(DrawnPictures())) == {"cloth", "brushed", "wood", "plate", "board", "plug"}


@pytest.mark.parametrize(
    ("categories", "expected"),
    [(["cloth", "wood"], {"cloth", "wood"}), ("all", {"cloth", "brushed", "wood", "board", "plug"}), (None, {"cloth"})],
)
def test_sources(drawn: Path, categories: list[str] | str | None, expected: set[str]) -> None:
    data = ReferenceDataModule(target(drawn), DrawnPictures(drawn, "cloth"), categories, episodes=5)
    training, validation = data.episode_datasets()
    names = [pool.name.split()[-1] for part in (training, validation) if part for pool in part.pools]
    assert sorted(names) == sorted(expected)
    assert (validation is None) == (len(expected) < 5)  # one category in five is held out


def test_several_sources(drawn: Path) -> None:
    source = [DrawnPictures(drawn, "cloth"), target(drawn, "board")]
    assert len(ReferenceDataModule(target(drawn), source).episode_datasets()[0].pools) == 2


def test_episodes_hold_queries_apart_from_references(drawn: Path) -> None:
    data = ReferenceDataModule(
        target(drawn), DrawnPictures(drawn), ["cloth", "wood"], n_normal=2, n_abnormal=2, episodes=200
    )
    dataset = data.episode_datasets()[0]
    drawn_episodes = [dataset.draw(number) for number in range(200)]
    for episode in drawn_episodes:
        chosen = [sample.image for sample in episode.normal + episode.abnormal]
        assert episode.query.image not in chosen
        assert len(set(chosen)) == 4
        assert len({Path(path).parents[2] for path in [*chosen, episode.query.image]}) == 1  # one category
        assert ("good" not in episode.query.image) == bool(episode.label)
        assert all("train/good" in sample.image for sample in episode.normal)
    assert 60 < sum(episode.label for episode in drawn_episodes) < 140
    assert dataset.draw(7) == dataset.draw(7)
    assert len({episode.query.image for episode in drawn_episodes}) > 30


def test_published_sampling_uses_the_test_split_and_may_repeat_the_query(drawn: Path) -> None:
    data = ReferenceDataModule(target(drawn), DrawnPictures(drawn), ["cloth"], n_normal=4, episodes=9, sampling="paper")
    dataset = data.episode_datasets()[0]
    episodes = [dataset.draw(number) for number in range(100)]
    assert all("test/good" in sample.image for episode in episodes for sample in episode.normal)
    assert any(episode.query in episode.normal for episode in episodes)


def test_validation_pictures_of_a_source_count_and_splits_follow_the_seed(drawn: Path) -> None:
    def pool() -> Pool:
        plug = drawn / "plug"
        source = Folder(
            "plug", root=plug, normal_dir="train/good", abnormal_dir="test/spot", mask_dir="ground_truth/spot"
        )
        return ReferenceDataModule(target(drawn), source).episode_datasets()[0].pools[0]

    first, second = pool(), pool()
    assert first == second
    assert len(first.abnormal) == 8  # none is lost to the source's own validation split
    assert {sample.defect_type for sample in first.abnormal} == {"abnormal"}


def test_thin_defects_survive_the_resize_of_masks() -> None:
    mask = torch.zeros(640, 640, dtype=torch.uint8)
    mask[3] = 1
    resized = keep_thin(torch.zeros(64, 64, dtype=torch.uint8), mask)
    assert resized[0].all()
    assert resized.sum() == 64


def test_a_target_without_validation_split_validates_on_the_test_set(drawn: Path) -> None:
    data = ReferenceDataModule(MVTecAD(drawn, "plug", num_workers=0, val_split_mode="none"))
    data.setup()
    assert paths(data.val_data) == paths(data.test_data)


def test_episode_items_collate(drawn: Path) -> None:
    dataset = ReferenceDataModule(target(drawn), DrawnPictures(drawn), ["cloth"], n_normal=2).episode_datasets()[0]
    batch = EpisodeBatch.collate([dataset[0], dataset[1], dataset[2]])
    assert batch.image.shape == (3, 3, 192, 192)
    assert batch.ref_normal.shape == (3, 2, 3, 192, 192)
    assert batch.ref_mask.shape == (3, 1, 192, 192)
    assert set(batch.ref_mask.unique().tolist()) == {0, 1}


def test_epochs_go_on_counting() -> None:
    sampler = EpochSampler(4)
    assert list(sampler) == [0, 1, 2, 3]
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]


def test_processes_share_the_episodes_of_every_step() -> None:
    shares = [EpochSampler(8, rank, 2) for rank in (0, 1)]
    for share in shares:
        share.set_epoch(1)
    assert [list(share) for share in shares] == [[8, 10, 12, 14], [9, 11, 13, 15]]


def test_a_folder_with_masks_is_a_target(drawn: Path) -> None:
    plate = drawn / "plate"
    data = Folder(
        "plate", root=plate, normal_dir="train/good", abnormal_dir="test/scratch", mask_dir="ground_truth/scratch",
        num_workers=0,
    )  # fmt: skip
    module = ReferenceDataModule(data)
    module.setup()
    assert module.support_set is not None
    assert module.reference_set().masks[0].any()
    assert not module.support_set.paths & paths(module.test_data)


def damaged(edit: Callable[[Path], object]) -> Callable[[Path], object]:
    """Damage every scratch image's mask, or every good one, then read references."""

    def run(root: Path) -> object:
        for path in sorted((root / "plate/ground_truth/scratch").iterdir()):
            edit(path)
        shutil.rmtree(root / "plate/test/spot")
        shutil.rmtree(root / "plate/test/missing")
        shutil.rmtree(root / "plate/ground_truth/spot")
        shutil.rmtree(root / "plate/ground_truth/missing")
        data = ReferenceDataModule(target(root))
        data.setup()
        return data.reference_set()

    return run


def not_an_image(root: Path) -> object:
    for path in (root / "plate/train/good").iterdir():
        path.write_text("not an image")
    data = ReferenceDataModule(target(root))
    data.setup()
    return data.reference_set()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: ReferenceDataModule(target(root), n_normal=99).setup(), "20 normal images.*at least 99"),
        (lambda root: ReferenceDataModule(target(root), n_abnormal=99).setup(), "24 abnormal images.*at least 99"),
        (lambda root: ReferenceDataModule(target(root), n_normal=0, n_abnormal=0).setup(), "not both 0"),
        (lambda root: ReferenceDataModule(target(root), n_normal=-1).setup(), "n_normal=-1"),
        (lambda root: ReferenceDataModule(target(root), sampling="random"), "expected one of corrected, paper"),
        (lambda root: ReferenceDataModule(target(root), episodes=0), "found 0 episodes"),
        (lambda root: ReferenceDataModule(target(root)).episode_datasets()[0], "no source to train it on"),
        (
            lambda root: ReferenceDataModule(target(root), target(root)).episode_datasets()[0],
            "images of the target .* among the sources",
        ),
        (damaged(lambda mask: Image.new("L", (192, 192)).save(mask)), "empty mask"),
        (damaged(lambda mask: Image.new("L", (90, 80), 255).save(mask)), r"\(80, 90\).*\(192, 192\)"),
        (damaged(lambda mask: mask.write_text("no")), "mask that cannot be read"),
        (not_an_image, "cannot be read as an image"),
        (lambda root: ReferenceSet(), "no reference images"),
        (lambda root: ReferenceSet(abnormal=(torch.rand(3, 4, 4),)), "no mask .* and no normal reference"),
        (
            lambda root: ReferenceSet((torch.rand(3, 4, 4),), (torch.rand(3, 4, 4),), (None, None)),
            "2 masks for 1 abnormal images",
        ),
        (lambda root: ReferenceSet(normal=(torch.rand(1, 4, 4),)), r"\(1, 4, 4\)"),
        (lambda root: Nagl("gabor", image_size=100), "96.*112"),
        (lambda root: Nagl("gabor", head=str(root / "none.ckpt")), "no file at"),
    ],
)
def test_bad_data_is_told_what_to_do(copied: Path, build: Callable[[Path], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(copied)


def test_a_missing_mask_is_named() -> None:
    choice = SupportSet((), (Sample(__file__, None, "scratch"),))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        choice.load()


def test_abnormal_pictures_without_masks_are_used_unless_masks_are_required(drawn: Path) -> None:
    data = Folder("plate", root=drawn / "plate", normal_dir="train/good", abnormal_dir="test/scratch", num_workers=0)
    assert ReferenceDataModule(data).reference_set().masks == (None,)
    assert ReferenceDataModule(data, masks="whole").reference_set().masks[0].all()
    with pytest.raises(ValueError, match="no mask for abnormal reference"):
        ReferenceDataModule(data, masks="required").reference_set()


def test_a_mask_on_a_normal_picture_is_refused(drawn: Path) -> None:
    module = target(drawn)
    module.setup()
    mask = next((drawn / "plate/ground_truth/scratch").iterdir())
    module.train_data.samples["mask_path"] = str(mask)
    with pytest.raises(ValueError, match="mask with marked pixels on the normal image"):
        choose_references(module, 1, 1, 0)


def test_small_source_categories_are_named() -> None:
    pool = Pool("tiny", (Sample("a", None, "good"),), (), (Sample("b", "m", "hole"), Sample("c", "m", "hole")))
    with pytest.raises(ValueError, match="'tiny', expected at least 2"):
        EpisodeDataset([pool], 1, 1, 4, (0,))


def test_drawing_spreads_over_types() -> None:
    candidates = [Sample(f"{kind}{i}", None, kind) for kind in "abc" for i in range(5)]
    for seed in range(20):
        drawn_samples = spread_types(candidates, np.random.default_rng(seed))[:3]
        assert {sample.defect_type for sample in drawn_samples} == set("abc")
