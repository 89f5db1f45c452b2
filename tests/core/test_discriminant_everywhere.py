"""The head-free rule in torch, in exported files and on the box, and what views of references do to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from support.exported import PICTURE, defect_mask, picture, pixels, reference_set

from anomalib_nagl import Nagl, NaglEdge, ReferenceSet
from anomalib_nagl.bank.discriminant import DEFECT_WEIGHT, WEIGHT
from anomalib_nagl.core.variants import Variant, resolve_views
from anomalib_nagl.evaluation.names import has_proxies


def head_free(views: str = "auto", **settings: object) -> Nagl:
    arguments = {"backbone": "gabor", "image_size": 64, "variant": "discriminant", "post_processor": False}
    return Nagl(**{**arguments, "views": views, **settings}).eval()


def by_the_book(tokens: torch.Tensor, model: Nagl) -> np.ndarray:
    """Patch scores (M,) of a query by the formula, patch by patch in float64, from the tokens of the references."""
    core = model.model
    unit = [x.double().flatten(0, 1).numpy() for x in (core.normal_tokens, core.abnormal_tokens)]
    normal, abnormal = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit)
    rows, cols = core.encoder.grid
    cells = np.arange(rows * cols).reshape(rows, cols)
    where = np.concatenate([np.rot90(cells[:, ::-1] if k >= 4 else cells, k % 4).reshape(-1) for k in core.symmetries])
    marked = core.abnormal_patch_mask[0].numpy().reshape(rows, cols) > 0
    near = np.zeros_like(marked)
    for i, j in zip(*marked.nonzero(), strict=True):
        near[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    defects, around = abnormal[marked.reshape(-1)[where]], abnormal[~near.reshape(-1)[where]]
    background = np.concatenate([normal, around])
    covariance, width = np.cov(background.T, bias=True), background.shape[1]
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / width * np.eye(width)
    direction = np.linalg.inv(shrunk) @ (defects.mean(axis=0) - background.mean(axis=0))
    query = tokens.double().numpy()
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    along = (query - background.mean(axis=0)) @ direction / (background @ direction).std()
    worth = ((1 - (around @ normal.T).max(axis=1)) / 2).std()
    scatter = ((around @ defects.T).max(axis=1) / 2).std()
    deviation = (1 - (query @ background.T).max(axis=1)) / 2
    similarity = (1 + (query @ defects.T).max(axis=1)) / 2
    weight = DEFECT_WEIGHT * min(1, worth / scatter)
    return deviation + WEIGHT * worth * np.maximum(along, 0) + weight * similarity


@pytest.mark.parametrize("views", ["none", "turns", "all"])
def test_scores_are_those_of_the_formula(views: str) -> None:
    model = head_free(views, image_size=128, bank_limit=None)
    model.set_references(reference_set(1, 1))
    assert len(model.model.symmetries) == {"none": 1, "turns": 4, "all": 8}[views]
    tokens = model.model.encode(model.pre_processor(picture(PICTURE, 41, defect=True)[None]))
    found = model.model.score(tokens).score[0].numpy()
    assert found == pytest.approx(by_the_book(tokens[0], model), abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("views", ["none", "turns"])
def test_the_box_learns_and_forgets_as_torch_does(views: str, tmp_path: Path) -> None:
    model = head_free(views)
    model.set_references(reference_set(1, 1))
    image = picture(PICTURE, 41, defect=True)
    expected = float(model(image[None]).pred_score)
    exported = model.to_openvino(tmp_path)
    plain = openvino.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image[None].numpy())
    assert float(plain["pred_score"][0]) == pytest.approx(expected, abs=1e-5)
    detector = NaglEdge(exported)
    before = detector.predict(pixels(image))
    assert before.score == pytest.approx(expected, abs=1e-5)
    detector.add_abnormal(
        pixels(picture(PICTURE, 21, defect=True)), defect_mask(PICTURE, 21).numpy(), name="abnormal 1"
    )
    model.set_references(reference_set(1, 2))
    taught = float(model(image[None]).pred_score)
    assert abs(taught - expected) > 1e-4
    assert detector.predict(pixels(image)).score == pytest.approx(taught, abs=1e-5)
    baked = detector.bake(tmp_path / "baked.xml")
    found = openvino.Core().compile_model(baked, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image[None].numpy())
    assert float(found["pred_score"][0]) == pytest.approx(taught, abs=1e-5)
    detector.undo()
    assert detector.predict(pixels(image)).score == pytest.approx(before.score, abs=1e-6)


def striped(angle: int, seed: int) -> torch.Tensor:
    """Stripes of one direction (3, 96, 96) with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    wave = 0.5 + 0.3 * torch.sin(torch.arange(96) * 0.8 + seed)[:, None].expand(96, 96)
    wave = wave if angle == 0 else wave.T
    return (wave + 0.02 * torch.randn(3, 96, 96, generator=generator)).clamp(0, 1)


def test_a_turned_part_is_a_defect_only_where_nothing_is_turned() -> None:
    """The danger of views: what may lie any way cannot lie wrongly."""
    ratio = {}
    for views in ("none", "turns"):
        model = head_free(views, image_size=96)
        model.set_references(ReferenceSet(normal=(striped(0, 1),), abnormal=(), masks=()))
        straight, turned = (float(model(striped(angle, 2)[None]).pred_score) for angle in (0, 90))
        ratio[views] = turned / straight
    assert ratio["none"] > 3
    assert ratio["turns"] < 2


def test_views_go_with_a_checkpoint_and_the_published_code_has_none() -> None:
    assert [resolve_views("auto", name) for name in ("paper", "corrected+Q4", "extended", "discriminant")] == [
        "none", "none", "turns", "turns",
    ]  # fmt: skip
    assert resolve_views("all", "paper") == "all"
    assert Nagl(backbone="gabor", image_size=64, variant="paper").model.symmetries == (0,)
    with pytest.raises(ValueError, match="expected auto, or one of none, turns, all"):
        Nagl(backbone="gabor", image_size=64, views="some")


def test_the_head_free_variant_has_nothing_to_train() -> None:
    assert not Variant.parse("discriminant").proxies
    assert Variant.parse("extended+discriminant").proxies
    assert [has_proxies(name) for name in ("discriminant", "discriminant+proxies", "extended+discriminant")] == [
        False, True, True,
    ]  # fmt: skip
