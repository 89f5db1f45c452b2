"""The plan of a fit: made once, frozen, handed over by a protocol that any datamodule can offer, gone afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem, MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import LightningDataModule
from support.exported import defect_mask, picture, reference_set
from torch.utils.data import DataLoader
from torchvision.tv_tensors import Image, Mask

from anomalib_nagl import Nagl, ReferenceDataModule, ReferenceSet
from anomalib_nagl.plugin.episodes import EpisodeBatch, EpisodeItem
from anomalib_nagl.plugin.fit_plan import FitPlan, ReferenceData, plan_fit
from anomalib_nagl.plugin.run_callback import RunCallback

SIZE = (128, 128)


def item(seed: int, defect: bool) -> dict[str, Any]:
    return {
        "image": Image(picture(SIZE, seed, defect)),
        "gt_mask": Mask(defect_mask(SIZE, seed).to(torch.uint8) if defect else torch.zeros(SIZE, dtype=torch.uint8)),
        "gt_label": torch.tensor(int(defect)),
        "image_path": f"{seed}.png",
    }


def images() -> DataLoader[Any]:
    items = [ImageItem(**item(seed, defect=seed % 2 == 1)) for seed in range(6)]
    return DataLoader(items, batch_size=3, collate_fn=ImageBatch.collate)  # type: ignore[arg-type]


def episodes(first: int) -> DataLoader[Any]:
    def references(seed: int) -> dict[str, Any]:
        return {
            "ref_normal": picture(SIZE, seed + 50)[None],
            "ref_abnormal": picture(SIZE, seed + 70, True)[None],
            "ref_mask": defect_mask(SIZE, seed + 70)[None].float(),
        }

    items = [EpisodeItem(**item(seed, defect=seed % 2 == 1), **references(seed)) for seed in range(first, first + 4)]
    return DataLoader(items, batch_size=2, collate_fn=EpisodeBatch.collate)  # type: ignore[arg-type]


class Stub(LightningDataModule):
    """Offers what ``ReferenceData`` names, loaders, and the two names that anomalib's engine files results under."""

    name, category = "Stub", "part"
    removed, abnormal_shots, brings_references, has_source = 3, 1, False, True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.plans: list[FitPlan] = []

    def prepare_for(self, plan: FitPlan) -> None:
        self.calls.append("prepare_for")
        self.plans.append(plan)

    def reference_set(self) -> ReferenceSet:
        return reference_set(1, 1)

    def selection_record(self) -> dict[str, Any]:
        return {"drawn_from": "thin air"}

    def use_recorded(self, records: Sequence[Mapping[str, str]]) -> None:
        self.calls.append(f"use_recorded {len(records)}")

    def validation_loaders(self, epoch: int) -> Mapping[str, DataLoader[Any]]:
        self.calls.append(f"validation_loaders {epoch}")
        return {"held out": episodes(100)}

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def train_dataloader(self) -> DataLoader[Any]:
        return episodes(0) if self.plans[-1].mode == "episodes" else images()

    def val_dataloader(self) -> DataLoader[Any]:
        return images()

    def test_dataloader(self) -> DataLoader[Any]:
        return images()


def model(**settings: Any) -> Nagl:
    return Nagl(**{"backbone": "gabor", "image_size": 128, "epochs": 2, "visualizer": False, **settings})


def engine(root: Path) -> Engine:
    return Engine(default_root_dir=root, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)


def test_a_head_is_trained_on_any_datamodule_that_offers_the_protocol(tmp_path: Path) -> None:
    data, nagl = Stub(), model()
    assert isinstance(data, ReferenceData)
    assert not isinstance(data, AnomalibDataModule)
    before = {name: tensor.clone() for name, tensor in nagl.model.head.state_dict().items()}
    results = engine(tmp_path).train(nagl, datamodule=data)  # a fit, then a test
    assert data.plans == [FitPlan("episodes", "best", True, data.plans[0].resize, False)]
    # The test that follows plans nothing, and leaves out the references that the model has.
    assert data.calls == [
        "prepare_for",
        "prepare_data",
        "validation_loaders 0",
        "validation_loaders 1",
        "prepare_data",
        "use_recorded 2",
    ]
    assert nagl.head_trained
    assert nagl.head_trainer.kept.epoch in (0, 1)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in nagl.model.head.state_dict().items())
    assert [record["kind"] for record in nagl.references] == ["normal", "abnormal"]
    assert nagl.manifest["selection"] == {"drawn_from": "thin air"}
    assert nagl.manifest["removed_from_evaluation"] == 3
    assert {"image_AUROC", "pixel_AUROC"} <= set(results[0])


def test_without_a_head_to_train_references_are_taken_and_nothing_else(tmp_path: Path) -> None:
    data, nagl = Stub(), model(variant="extended-proxies", threshold="f1_adaptive")
    before = {name: tensor.clone() for name, tensor in nagl.model.head.state_dict().items()}
    engine(tmp_path).fit(nagl, datamodule=data)
    assert (data.plans[0].mode, data.plans[0].needs_validation) == ("references", True)
    assert nagl.model.has_references
    assert all(torch.equal(tensor, before[name]) for name, tensor in nagl.model.head.state_dict().items())
    saved = next(tmp_path.rglob("model.ckpt"))
    engine(tmp_path).test(model(variant="extended-proxies"), datamodule=data, ckpt_path=saved)
    assert data.calls[-1] == "use_recorded 2"


def test_only_the_test_of_a_resumed_training_passes_over_the_checkpoint_that_was_named(tmp_path: Path) -> None:
    first = engine(tmp_path / "first")
    first.fit(model(epochs=1), datamodule=Stub())
    last = next((tmp_path / "first").rglob("last.ckpt"))
    nagl, second = model(), engine(tmp_path / "second")
    results = second.train(nagl, datamodule=Stub(), ckpt_path=last)
    assert "image_AUROC" in results[0]
    with pytest.raises(RuntimeError, match="found no references"):  # an unfinished training has none
        second.test(nagl, datamodule=Stub(), ckpt_path=last)


def planned(nagl: Nagl) -> FitPlan:
    """The plan of a fit that is about to start."""
    trainer = Engine(accelerator="cpu", devices=1, logger=False)
    trainer._setup_trainer(nagl)
    nagl.trainer = trainer.trainer
    nagl.trainer.datamodule = None
    nagl.trainer.state.fn = "fit"
    plan = plan_fit(nagl)
    assert plan is not None
    return plan


def test_plans_of_equal_models_are_equal_and_frozen(folder: Path) -> None:
    plan = planned(model(variant="extended"))
    assert plan == planned(model(variant="extended"))
    assert hash(plan) == hash(planned(model(variant="extended")))
    for other in ({"image_size": 144}, {"selection": "last"}, {"token_cache": False}, {"variant": "extended-proxies"}):
        assert plan != planned(model(**other)), other
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.mode = "references"  # type: ignore[misc]


@pytest.mark.parametrize("fails", [False, True])
def test_a_plan_ends_with_its_fit_and_so_do_the_callbacks(
    fails: bool, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ReferenceDataModule(MVTecAD(drawn, "plug", num_workers=0))
    nagl, used = model(variant="extended-proxies"), engine(tmp_path)
    seen: list[FitPlan | None] = []

    def step(*_: Any) -> None:
        seen.append(data.fit_plan)
        if fails:
            raise OSError("no space left")

    monkeypatch.setattr(nagl, "validation_step", step)
    if fails:
        with pytest.raises(OSError, match="no space left"):
            used.fit(nagl, datamodule=data)
    else:
        used.fit(nagl, datamodule=data)
    assert [plan.mode for plan in seen if plan is not None] == ["references"]
    assert data.fit_plan is None
    assert not [callback for callback in used.trainer.callbacks if isinstance(callback, RunCallback)]
    served = [label for batch in data.train_dataloader() for label in batch.gt_label.tolist()]
    assert served == [0] * 20  # the target's normal images, for whatever model is next
