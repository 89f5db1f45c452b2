"""Thresholds from a handful of references: what they are made of, and that the same number acts everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer
from support.adapted import bare_model
from support.commands import anomalib
from support.reference_folders import FOLDER, GABOR, copy_references

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.bank.calibration import Calibration
from anomalib_nagl.bank.held_out import SAMPLE, HeldOut, held_out_scores
from anomalib_nagl.core.calibration import calibrate, detector_of
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.references.images import load_image

GRID = (8, 8)


@pytest.fixture
def part(drawn: Path, folder: Path) -> Path:
    copy_references(drawn, folder)
    return folder


def tokens(n: int, a: int) -> ReferenceTokens:
    generator = torch.Generator().manual_seed(0)
    marked = torch.zeros(a, 64)
    marked[:, 20:24] = 1
    normal, abnormal = torch.randn(n, 64, 16, generator=generator), torch.randn(a, 64, 16, generator=generator)
    return ReferenceTokens(normal, abnormal, marked, torch.ones(a, dtype=torch.bool))


def held_out(model: NaglModel, references: ReferenceTokens) -> HeldOut:
    state = {name: tensor.numpy() for name, tensor in model.adapt(references).tensors.items()}
    return held_out_scores(model.patches(references), state, detector_of(model, references.normal))


def numbers(found: Calibration) -> list[float]:
    return [value for one in found[:4] for value in one]


@pytest.mark.parametrize(("n", "a", "blocks"), [(1, 0, 2), (3, 0, 2)])
def test_blocks_are_scored_by_everything_else(n: int, a: int, blocks: int) -> None:
    """Against a loop over single patches."""
    head, references = NaglHead(16, 5, 2, "corrected"), tokens(n, a)
    with torch.no_grad():
        model = bare_model(head, GRID)
        state = model.adapt(references)
        found = held_out(model, references).normal
    for image in range(n):
        for patch in (0, 9, 37, 63):
            row, col = divmod(patch, 8)
            others = [
                references.normal[i, p]
                for i in range(n)
                for p in range(64)
                if i != image or (p // 8 * blocks // 8, p % 8 * blocks // 8) != (row * blocks // 8, col * blocks // 8)
            ]
            with torch.no_grad():
                query = references.normal[image][None]
                left = state.replace(normal_bank=torch.stack(others))
                expected = head.score(query, left.batched(), GRID).score[0, patch]
            assert found[image, patch] == pytest.approx(float(expected), abs=1e-6)


def test_without_normal_references_the_rest_of_the_abnormal_ones_is_held_out() -> None:
    head, references = NaglHead(16, 5, 2, "corrected"), tokens(0, 2)
    model = bare_model(head, GRID)
    with torch.no_grad():
        found = held_out(model, references)
    assert (found.normal[:, 20:24] == found.normal.min(axis=1, keepdims=True)).all()
    assert np.isfinite(found.normal).all()


def test_references_in_half_precision_are_scored_by_a_head_in_half_precision() -> None:
    references = tokens(2, 1)
    model = bare_model(NaglHead(16, 5, 2, "corrected"), GRID)
    expected = calibrate(model, references)
    half = ReferenceTokens(*(one.bfloat16() if one.is_floating_point() else one for one in references[:-1]))
    model = model.bfloat16()
    assert numbers(calibrate(model, half)) == pytest.approx(numbers(expected), abs=0.05)


def test_of_many_references_some_are_scored_by_what_is_kept_of_all() -> None:
    references = tokens(SAMPLE + 8, 0)
    model = bare_model(NaglHead(16, 5, 2, "extended-proxies"), GRID)
    order = torch.randperm(SAMPLE + 8, generator=torch.Generator().manual_seed(0))
    mixed = references._replace(normal=references.normal[order])
    found = [numbers(calibrate(model, given, 500)) for given in (references, mixed)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(numbers(calibrate(model, references)), abs=1e-4)


def test_labels_of_test_pictures_do_not_matter(part: Path, drawn: Path) -> None:
    """Swapping what is good and what is defective among the test images leaves the thresholds as they are."""
    found = []
    shutil.copytree(drawn / "plug", "swapped/plug")
    shutil.move("swapped/plug/test/good", "swapped/plug/test/was_good")
    shutil.move("swapped/plug/test/spot", "swapped/plug/test/good")
    shutil.rmtree("swapped/plug/test/was_good")
    shutil.rmtree("swapped/plug/ground_truth/spot")
    for root in (drawn, "swapped"):
        cli = anomalib(
            "train", *GABOR, *FOLDER, "--data.n_abnormal", 0, "--data.target", "MVTecAD", "--data.target.root", root,
            "--data.target.category", "plug", "--data.target.num_workers", 0,
        )  # fmt: skip
        found.append(
            {name: float(value) for name, value in cli.model.post_processor.named_buffers() if "metric" not in name}
        )
    assert found[0] == found[1]
    assert all(np.isfinite(list(found[0].values())))


@pytest.mark.slow
def test_the_same_number_acts_after_export_and_can_be_changed(part: Path) -> None:
    cli = anomalib("train", *GABOR, *FOLDER, "--data.n_abnormal", 0)
    checkpoint = Path(cli.engine.trainer.checkpoint_callback.best_model_path)
    for number in (None, 0.6):
        model = Nagl.load_from_checkpoint(checkpoint, **({} if number is None else {"threshold": number})).eval()
        assert float(model.post_processor.normalized_image_threshold) == np.float32(number or 0.5)
        model.to_openvino("out")
        inferencer = OpenVINOInferencer(
            "out/weights/openvino/model.xml", "CPU", config={"INFERENCE_PRECISION_HINT": "f32"}
        )
        for path in ("new/good.png", "new/spot.png", "references/normal/000.png"):
            expected = model.predict(path)
            found = inferencer.predict(load_image(path).permute(1, 2, 0).numpy())
            image, _ = model.post_processor.scales
            raw = image.raw(float(np.squeeze(found.pred_score)))
            assert raw == pytest.approx(expected.raw_score, abs=1e-4)
            assert bool(np.squeeze(found.pred_label)) == expected.label == (expected.score > (number or 0.5))
            assert (expected.score > 0.5) == (expected.raw_score > image.raw_threshold)


@pytest.mark.parametrize(("rule", "source"), [("0.25", 0.25), ("f1_adaptive", None)])
def test_other_rules(part: Path, drawn: Path, rule: str, source: float | None) -> None:
    cli = anomalib(
        "train", *GABOR, "--model.threshold", rule, *FOLDER, "--data.n_abnormal", 0, "--data.target", "MVTecAD",
        "--data.target.root", drawn, "--data.target.category", "plug", "--data.target.num_workers", 0,
    )  # fmt: skip
    found = cli.model.post_processor
    assert float(found.normalized_image_threshold) == (source or 0.5)
    assert np.isfinite(float(found.image_threshold))
    assert bool(found.calibration) == (source is not None)  # of references


@pytest.mark.parametrize("value", ["often", 0, 1.0, -0.5, 17, float("nan")])
def test_a_threshold_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*, expected one of references, f1_adaptive, or a number between"):
        Nagl("gabor", image_size=256, threshold=value)


@pytest.mark.parametrize(("n", "a"), [(1, 0), (2, 1)])
def test_normalised_scores_are_never_cut_off(drawn: Path, n: int, a: int) -> None:
    """Neither those of an image like the reference nor those of noise."""
    model = Nagl("gabor", image_size=128)
    paths = [drawn / f"plug/train/good/{i:03}.png" for i in range(n + a)]
    images = [load_image(path) for path in paths]
    model.set_references(ReferenceSet(tuple(images[:n]), tuple(images[n:])))
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = [model.predict(picture) for picture in (*images, noise, torch.zeros(3, 64, 64))]
    image, _ = model.post_processor.scales
    assert image.raw_good < image.raw_threshold < image.raw_defective
    for one in found:
        assert 0 < one.score < 1
        assert image.raw(one.score) == pytest.approx(one.raw_score, abs=1e-5)


def test_where_a_decision_is_made_does_not_move_the_scale(drawn: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [load_image(drawn / f"plug/train/good/{i:03}.png") for i in range(4)]
    models = [
        Nagl("gabor", image_size=128, **({} if number is None else {"threshold": number})) for number in (None, 0.6)
    ]
    for model in models:
        model.set_references(ReferenceSet(tuple(images[:2]), tuple(images[2:])))
    scores = [model.predict(images[0]).score for model in models]
    assert scores[0] == scores[1]
    post = models[0].post_processor
    for _ in range(2):
        post.set_thresholds(image=scores[0] + 0.01, pixel=0.7)
        assert models[0].predict(images[0]).score == scores[0]
        assert not models[0].predict(images[0]).label
    post.set_thresholds(image=scores[0] - 0.01)
    assert models[0].predict(images[0]).label
    assert float(post.normalized_pixel_threshold) == np.float32(0.7)
    caplog.clear()
    post.set_thresholds(image=0.5)
    assert "Found threshold" not in caplog.text
    post.set_thresholds(image=0.9999)
    assert "Found threshold 0.9999 for images" in caplog.text
