"""Which settings a model has: its head brings some, and without a head and a source it does without one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.exported import backbone
from support.parts import SIDE, category, engine, part, target, write

from anomalib_nagl import Nagl, ReferenceDataModule, ReferenceSet
from anomalib_nagl.core.variants import Variant
from anomalib_nagl.plugin.head_settings import DEFAULTS, HEAD_FREE, settle_variant

SAID = "patches are compared without a head"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        category(tmp_path, name)
    return tmp_path


def saved_head(folder: Path, **settings: Any) -> tuple[Nagl, Path]:
    """A model that claims to be trained, and its checkpoint."""
    nagl = Nagl(**settings)
    nagl.model.encoder.ensure_weights()
    nagl.head_trained = True
    content: dict[str, Any] = {"state_dict": nagl.state_dict(), "hyper_parameters": dict(nagl.hparams)}
    nagl.on_save_checkpoint(content)
    path = folder / "head.ckpt"
    torch.save(content, path)
    return nagl, path


def test_a_head_brings_its_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"backbone": "gabor", "image_size": [64, 96], "num_heads": 2, "num_proxies": 7, "variant": "corrected"}
    trained, path = saved_head(tmp_path, **given)
    nagl = Nagl(head=str(path))
    assert {name: nagl.hparams[name] for name in DEFAULTS} == {name: trained.hparams[name] for name in DEFAULTS}
    assert nagl.image_size == (64, 96)
    assert nagl.pre_processor.config == trained.pre_processor.config
    assert torch.equal(nagl.model.head.learnable_proxies.weight, trained.model.head.learnable_proxies.weight)
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": "vit_small_patch14_dinov2"}, "backbone='gabor' instead of 'vit_small_patch14_dinov2'"),
        ({"num_proxies": 9, "num_heads": 4}, "num_proxies=25 instead of 9, num_heads=2 instead of 4"),
        ({"variant": "paper"}, "variant='extended' instead of 'paper'"),
    ],
)
def test_other_settings_than_those_of_the_head_are_one_sentence(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, path = saved_head(tmp_path, backbone="gabor", image_size=64, num_heads=2)
    with pytest.raises(ValueError, match=f"{message} in .*: leave them out"):
        Nagl(head=str(path), **given)


def test_another_image_size_is_used_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, path = saved_head(tmp_path, backbone="gabor", image_size=64)
    assert Nagl(head=str(path), image_size=96).image_size == (96, 96)
    assert "trained on images of 64 x 64 pixels and is used on 96 x 96" in caplog.text


def test_a_head_brings_its_backbone_with_its_weights(tmp_path: Path) -> None:
    trained, path = saved_head(tmp_path, backbone=backbone("vit", tmp_path), image_size=112)
    for folder in tmp_path.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    nagl = Nagl(head=str(path))
    assert nagl.model.encoder.weights_ready
    assert nagl.model.encoder.fingerprint() == trained.model.encoder.fingerprint()


def bare(**settings: Any) -> Nagl:
    return Nagl(**{"backbone": "gabor", "image_size": SIDE, "visualizer": False, "epochs": 1, **settings})


@pytest.mark.parametrize("wrapped", [True, False])
def test_without_head_and_source_patches_are_compared(
    wrapped: bool, parts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anomalib_nagl")
    nagl, data = bare(), target(parts)
    used = engine(parts / "run")
    used.train(nagl, datamodule=ReferenceDataModule(data) if wrapped else data)
    assert (nagl.hparams["variant"], nagl.head_trained) == (HEAD_FREE, True)
    assert caplog.text.count(SAID) == 1
    again = Nagl.load_from_checkpoint(used.trainer.checkpoint_callback.best_model_path)
    image = parts / "a/test/dent/0.png"
    assert again.predict(image).score == pytest.approx(nagl.predict(image).score)
    # The same model learns a head when there is something to learn from.
    source = ReferenceDataModule(target(parts), target(parts, "b"), episodes=4, num_workers=0)
    engine(parts / "run").fit(nagl, datamodule=source)
    assert nagl.head_trained
    assert nagl.hparams["variant"] == DEFAULTS["variant"]


def test_a_variant_that_is_named_is_kept(parts: Path) -> None:
    with pytest.raises(ValueError, match=f"no source to train it on.*--model.variant {HEAD_FREE}"):
        engine(parts).train(bare(variant="extended"), datamodule=ReferenceDataModule(target(parts)))
    with pytest.raises(ValueError, match=f"untrained head and only.*--model.variant {HEAD_FREE}"):
        engine(parts).train(bare(variant="extended"), datamodule=target(parts))


def test_new_images_are_inspected_by_references_alone(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anomalib_nagl")
    caplog.set_level(logging.INFO, "anomalib_nagl.plugin.reference_adapter")  # an evaluation silences it
    for number in range(3):
        write(parts / f"references/good/{number}.png", part(number)[0])
        image, mask = part(number + 50, defect=True)
        write(parts / f"references/defects/{number}.png", image)
        write(parts / f"references/masks/{number}.png", mask)
    data = ReferenceDataModule(references=str(parts / "references"), pictures=str(parts / "a/test/dent"), num_workers=0)
    nagl = bare()
    engine(parts).predict(nagl, datamodule=data)
    by_hand = bare()
    by_hand.set_references(ReferenceSet.from_folder(parts / "references"))
    assert nagl.hparams["variant"] == by_hand.hparams["variant"] == HEAD_FREE
    image = parts / "a/test/dent/0.png"
    assert nagl.predict(image).score == pytest.approx(by_hand.predict(image).score)
    assert caplog.text.count(SAID) == 2
    assert caplog.text.count("The threshold is a guess: it rests on 3 normal references") == 2


@pytest.mark.parametrize(
    ("kind", "expected"), [("vit", "guided"), ("cnn", "guided"), ("builtin", "guided"), ("gabor", "extended")]
)
def test_the_kind_of_backbone_decides_what_is_trained(kind: str, expected: str, tmp_path: Path) -> None:
    name = backbone(kind, tmp_path)
    nagl = Nagl(name, image_size=112)
    settle_variant(nagl, abnormal_shots=1, has_source=True)
    assert nagl.hparams["variant"] == expected
    assert nagl.model.head.variant == nagl.loss.variant == Variant.parse(expected)
    assert not nagl.head_trained
    assert nagl.model.symmetries == (0, 1, 2, 3)
    head = nagl.model.head
    settle_variant(nagl, abnormal_shots=1, has_source=True)  # the next fit finds what it wants
    assert nagl.model.head is head
    named = Nagl(name, image_size=112, variant="corrected")
    settle_variant(named, abnormal_shots=1, has_source=True)
    assert named.hparams["variant"] == "corrected"
