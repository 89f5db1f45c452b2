"""A fit belongs to its datamodule: whatever ran before, with whatever objects, it is as if it ran alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder
from anomalib.deploy import ExportType
from anomalib.models import Padim
from lightning.pytorch.callbacks import Callback
from support.parts import category, engine, learner, model, target

from anomalib_nagl import Nagl, ReferenceDataModule

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name in NAMES:
        category(root, name)
    return root


def facts(nagl: Nagl) -> dict[str, Any]:
    """What a fit made of a model: references, head, thresholds and scores of an image."""
    post: Any = nagl.post_processor
    head = torch.cat([tensor.flatten() for tensor in nagl.model.head.state_dict().values()])
    score = nagl.predict(next(record["name"] for record in nagl.references)).raw_score
    return {
        "references": [(record["name"], record["sha256"]) for record in nagl.references],
        "removed": nagl.manifest["removed_from_evaluation"],
        "head": float(head.double().abs().sum()),
        "thresholds": (float(post.image_threshold), float(post.pixel_threshold)),
        "score": score,
        "kept": nagl.head_trainer.kept.epoch,
    }


def listed(data: AnomalibDataModule) -> dict[str, list[str]]:
    names = [name for name in ("train_data", "val_data", "test_data") if hasattr(data, name)]
    return {name: list(map(str, getattr(data, name).samples.image_path)) for name in names}


def with_source(root: Path, name: str, source: str, **settings: Any) -> ReferenceDataModule:
    return ReferenceDataModule(target(root, name), target(root, source), episodes=6, train_batch_size=3, **settings)


# Every kind of data that sequences choose from, by what decides it.
DATA: dict[str, Callable[[Path], AnomalibDataModule]] = {
    "plain a": lambda root: target(root, "a"),
    "plain b": lambda root: target(root, "b"),
    "folder": lambda root: Folder(
        "c", root=root / "c", normal_dir="train/good", abnormal_dir=["test/dent", "test/hole"],
        mask_dir=["ground_truth/dent", "ground_truth/hole"], num_workers=0, seed=3,
    ),
    "drawn b": lambda root: ReferenceDataModule(target(root, "b"), n_normal=2, seed=4),
    "source b": lambda root: with_source(root, "a", "b"),
    "source c": lambda root: with_source(root, "a", "c"),
}  # fmt: skip
PLAIN = ("plain a", "plain b", "folder", "drawn b")
# What a person may do, with whether it needs the references of a fit.
AFTERWARDS = ("test", "validate", "predict", "export", "other model", "nothing")


def run(action: str, nagl: Nagl, data: AnomalibDataModule, used: Any, place: Path) -> Any:
    if action == "test":
        return used.test(nagl, datamodule=data)
    if action == "validate":
        return used.validate(nagl, datamodule=data)
    if action == "predict":
        batches = used.predict(nagl, datamodule=data)
        return [round(float(score), 6) for batch in batches for score in batch.pred_score]
    if action == "export":
        return used.export(nagl, ExportType.TORCH, place).stat().st_size > 0
    if action == "other model":
        other = Padim(pre_trained=False, visualizer=False, n_features=10)
        engine(place, max_epochs=1).fit(other, datamodule=data)
        return len(data.train_data), len(data.val_data), len(data.test_data)
    return None


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_any_sequence_with_shared_objects_gives_what_each_run_gives_alone(
    seed: int, parts: Path, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    trained = seed % 2 == 1
    make = learner if trained else model
    kinds = ("source b", "source c") if trained else PLAIN
    shared, everything = make(), {kind: DATA[kind](parts) for kind in kinds}
    one_engine = engine(tmp_path / "one")
    for number in range(4):
        kind = chance.choice(kinds)
        used = chance.choice([one_engine, engine(tmp_path / f"shared{number}")])
        used.fit(shared, datamodule=everything[kind])
        alone, own = make(), DATA[kind](parts)
        fresh = engine(tmp_path / f"alone{number}")
        fresh.fit(alone, datamodule=own)
        assert facts(shared) == facts(alone), (number, kind)
        for action in chance.sample(AFTERWARDS, 2):
            found = run(action, shared, everything[kind], used, tmp_path / f"of_shared{number}{action}")
            expected = run(action, alone, own, fresh, tmp_path / f"of_alone{number}{action}")
            assert found == expected, (number, kind, action)
        np.random.default_rng().random()
        torch.rand(chance.randrange(5))  # whatever else a process draws


def test_a_head_is_trained_anew_by_each_source_and_kept_without_one(parts: Path, tmp_path: Path) -> None:
    nagl = learner()
    engine(tmp_path).fit(nagl, datamodule=with_source(parts, "a", "b"))
    first = facts(nagl)["head"]
    engine(tmp_path).fit(nagl, datamodule=target(parts, "c"))
    assert facts(nagl)["head"] == first
    assert all("/c/" in record["name"] for record in nagl.references)
    engine(tmp_path).fit(nagl, datamodule=with_source(parts, "a", "c"))
    assert facts(nagl)["head"] != first
    engine(tmp_path).fit(nagl, datamodule=with_source(parts, "a", "b"))
    assert facts(nagl)["head"] == first


def test_a_datamodule_that_was_set_up_is_left_as_it_was(parts: Path, tmp_path: Path) -> None:
    data = target(parts)
    data.setup()
    before, own = listed(data), dict(vars(data))
    nagl = model()
    engine(tmp_path).train(nagl, datamodule=data)
    assert listed(data) == before
    assert type(data.test_data) is type(own["test_data"])

    class Fails(Callback):
        def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        engine(tmp_path, callbacks=[Fails()]).fit(nagl, datamodule=data)
    assert listed(data) == before


def test_a_target_that_is_wrapped_is_not_touched(parts: Path, tmp_path: Path) -> None:
    given = target(parts)
    before = dict(vars(given))
    for seed in (1, 2):
        engine(tmp_path).train(model(), datamodule=ReferenceDataModule(given, seed=seed))
    assert {name: value for name, value in vars(given).items() if name in before} == before
    assert given.seed is None


def test_what_is_left_to_look_at_after_a_fit_holds_no_reference_and_the_next_model_gets_all(
    parts: Path, tmp_path: Path
) -> None:
    data, nagl = target(parts), model()
    engine(tmp_path).train(nagl, datamodule=data)
    used = {record["name"] for record in nagl.references}
    assert not used & set(listed(data)["test_data"])
    data.setup()
    assert used & set(listed(data)["test_data"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_with_references_is_not_tested_on_them(wrapped: bool, parts: Path, tmp_path: Path) -> None:
    first = engine(tmp_path)
    first.fit(model(n_normal=2), datamodule=target(parts))
    loaded = Nagl.load_from_checkpoint(first.trainer.checkpoint_callback.best_model_path)
    data: AnomalibDataModule = target(parts)
    if wrapped:
        data = ReferenceDataModule(data, seed=9)
    seen = [path for batch in engine(tmp_path).predict(loaded, datamodule=data) for path in batch.image_path]
    assert len(seen) == 10
    assert not {record["name"] for record in loaded.references} & set(map(str, seen))


def test_the_trainer_keeps_its_limits(parts: Path, tmp_path: Path) -> None:
    used = engine(tmp_path, max_epochs=3, check_val_every_n_epoch=1, limit_train_batches=0.5, limit_val_batches=0.5)
    nagl = learner()
    for data in (with_source(parts, "a", "b"), ReferenceDataModule(target(parts))):
        used.fit(nagl, datamodule=data)
        trainer: Any = used.trainer
        assert (trainer.max_epochs, trainer.check_val_every_n_epoch) == (3, 1)
        assert (trainer.limit_train_batches, trainer.limit_val_batches) == (0.5, 0.5)


def test_one_source_serves_several_categories_after_it_was_used(parts: Path, tmp_path: Path) -> None:
    source = target(parts, "b")
    engine(tmp_path).fit(model(), datamodule=source)
    data = ReferenceDataModule(target(parts), source, source_categories=["c"], episodes=4)
    pool = data.episode_datasets()[0].pools[0]
    assert all("/c/" in sample.image for sample in pool.samples)
    assert source.category == "b"


SHORT = [{"limit_val_batches": 0}, {"limit_val_batches": 0.01}, {"check_val_every_n_epoch": 2}, {"max_epochs": 0},
         {"fast_dev_run": True}, {"overfit_batches": 1}, {"max_steps": 1}]  # fmt: skip


@pytest.mark.parametrize("options", SHORT, ids=str)
@pytest.mark.parametrize(
    "make", [lambda root: ReferenceDataModule(target(root)), lambda root: with_source(root, "a", "b")]
)
def test_references_are_taken_however_short_a_fit_is(
    options: dict[str, Any], make: Callable[[Path], ReferenceDataModule], parts: Path, tmp_path: Path
) -> None:
    data = make(parts)
    nagl = learner(selection="last") if data.has_source else model()
    used = engine(tmp_path, **options)
    used.fit(nagl, datamodule=data)
    assert len(nagl.references) == 2
    assert not torch.isnan(nagl.post_processor.image_threshold)
    for path in tmp_path.rglob("model*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["nagl"]["references"] == nagl.references
        assert torch.equal(saved["state_dict"]["model.normal_bank"], nagl.model.normal_bank)
    if options.keys() & {"limit_val_batches", "check_val_every_n_epoch"}:
        assert list(tmp_path.rglob("model*.ckpt"))


@pytest.mark.parametrize("wrap", [False, True])
def test_synthetic_and_empty_splits(wrap: bool, parts: Path, tmp_path: Path) -> None:
    def data(count: int, **settings: Any) -> AnomalibDataModule:
        folder = Folder("c", root=parts / "c", normal_dir="train/good", num_workers=0, seed=1, **settings)
        return ReferenceDataModule(folder, n_abnormal=count) if wrap else folder

    for count, settings in (
        (1, {"test_split_mode": "synthetic", "test_split_ratio": 0.8, "val_split_mode": "same_as_test"}),
        (0, {"test_split_mode": "synthetic"}),  # so few that nothing is left to validate on
    ):
        nagl, shared, used = model(n_abnormal=count), data(count, **settings), engine(tmp_path)
        used.fit(nagl, datamodule=shared)
        assert len(nagl.references) == 1 + count
        used.test(nagl, datamodule=shared)
        assert used.predict(nagl, datamodule=shared)
