"""What anomalib's own models can be asked for: the same, or one sentence that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anomalib.metrics import AUPIMO, Evaluator
from anomalib.models import UnknownModelError, get_model
from anomalib.pre_processing import PreProcessor
from support.parts import SIDE, category, engine, learner, model, target
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize, Transform

from anomalib_nagl import Nagl


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    category(tmp_path, "a", good=8)
    return tmp_path


def test_a_pre_processor_can_be_asked_of_the_class_and_of_a_model() -> None:
    of_class = Nagl.configure_pre_processor(image_size=(SIDE, SIDE))
    assert of_class.transform(torch.zeros(3, 9, 20)).shape == (3, SIDE, SIDE)
    assert Nagl.configure_pre_processor().config["image_size"] == [448, 448]
    nagl = model(pre_processor=of_class)
    assert nagl.pre_processor is of_class
    own = nagl.configure_pre_processor((32, 48))
    assert own.config == {**model().pre_processor.config, "image_size": [32, 48]}


@pytest.mark.parametrize("transform", [Resize((32, 32)), Resize(SIDE), Compose([Resize((SIDE, SIDE)), CenterCrop(32)])])
def test_a_pre_processor_of_another_size_is_refused_with_both_sizes(transform: Transform) -> None:
    with pytest.raises(ValueError, match=rf"images of size \(\d+, \d+\).*\({SIDE}, {SIDE}\)"):
        model(pre_processor=PreProcessor(transform=transform))


def test_a_pre_processor_that_does_not_resize_is_the_persons_business(parts: Path, tmp_path: Path) -> None:
    nagl = model(pre_processor=PreProcessor(transform=Normalize([0.5] * 3, [0.5] * 3)))
    engine(tmp_path / "run").train(nagl, datamodule=target(parts))
    assert nagl.model.has_references


@pytest.mark.parametrize("make", [model, learner])
def test_a_fit_with_loaders_names_what_it_needs(make: object, parts: Path, tmp_path: Path) -> None:
    data = target(parts)
    data.setup()
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    nagl = make()  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"found loaders without a datamodule .* set_references"):
        engine(tmp_path).fit(nagl, **loaders)


def test_a_model_with_references_may_be_fitted_with_loaders(parts: Path, tmp_path: Path) -> None:
    nagl, data = model(threshold="f1_adaptive"), target(parts)
    engine(tmp_path).fit(nagl, datamodule=data)
    before = list(nagl.references)
    data.setup()
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    engine(tmp_path).fit(nagl, **loaders)
    assert nagl.references == before


def test_models_are_found_by_the_names_that_anomalib_takes() -> None:
    assert isinstance(get_model("nagl", backbone="gabor", image_size=SIDE), Nagl)
    named = {"class_path": "anomalib_nagl.Nagl", "init_args": {"backbone": "gabor", "image_size": SIDE}}
    assert isinstance(get_model(named), Nagl)
    for dotted in ("anomalib_nagl.Nagl", "anomalib.models.Padim"):  # plain text is a name, not a path, for any model
        with pytest.raises(UnknownModelError):
            get_model(dotted)


def test_without_a_pre_processor_one_sentence_says_what_is_missing(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no pre-processor, expected one to prepare reference images with"):
        engine(tmp_path).fit(model(pre_processor=False), datamodule=target(parts))


def test_aupimo_is_computed_with_thresholds_that_maps_can_tell_apart(
    parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metric = AUPIMO(fields=["anomaly_map", "gt_mask"], num_thresholds=20_000, fpr_bounds=(1e-3, 1e-1))
    results = engine(tmp_path).train(model(evaluator=Evaluator(test_metrics=[metric])), datamodule=target(parts))
    assert "AUPIMO" in results[0]
    assert "num_thresholds" not in caplog.text
    usual = AUPIMO(fields=["anomaly_map", "gt_mask"])
    engine(tmp_path).fit(model(evaluator=Evaluator(test_metrics=[usual])), datamodule=target(parts))
    assert "AUPIMO(num_thresholds=20000)" in caplog.text
