"""Heads that look where known defects point, or past what normal patches vary by, against slow plain versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from support.exported import PICTURE, picture, reference_set
from torch import Tensor
from torch.testing import assert_close

from anomalib_nagl import Nagl
from anomalib_nagl.core.eraser import KEPT, NEIGHBOURS, erase
from anomalib_nagl.core.functional import mean_similarity, sine_position
from anomalib_nagl.core.guidance import contrast, episode_direction, guide
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.variants import PROXY_CONTRAST, Variant
from anomalib_nagl.evaluation.names import has_proxies

GRID, DIM, PATCH = (4, 5), 24, 4


def episode(batch: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, 2, GRID[0] * PATCH, GRID[1] * PATCH)
    for b in range(batch):
        mask[b, 0, b : b + 5, b : b + 6] = 1
        mask[b, 1, 9:12, 3 * b : 3 * b + 4] = 1
    shapes = {"query": (batch,), "normal": (batch, 1), "abnormal": (batch, 2)}
    drawn = {name: torch.randn(*shape, 20, DIM, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "abnormal_mask": mask}


def head(variant: str) -> NaglHead:
    torch.manual_seed(1)
    return NaglHead(DIM, num_proxies=7, num_heads=4, variant=variant).eval()


def unit(x: Tensor) -> np.ndarray:
    array = x.double().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))


def by_the_book(given: dict[str, Tensor], model: NaglHead, b: int) -> np.ndarray:
    """Where the patches of a query lie along Fisher's direction, standardised, in float64."""
    marked = model.variant.grid_mask(given["abnormal_mask"], GRID)[b].numpy().reshape(2, *GRID) > 0
    near = np.zeros_like(marked)
    for k, i, j in zip(*marked.nonzero(), strict=True):
        near[k, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    abnormal = unit(given["abnormal"][b])
    normal = np.concatenate([unit(given["normal"][b, 0]), abnormal[~near.reshape(2, -1)]])
    covariance = np.cov(normal.T, bias=True)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / DIM * np.eye(DIM)
    defects = abnormal[marked.reshape(2, -1)]
    direction = np.linalg.inv(shrunk) @ (defects.mean(axis=0) - normal.mean(axis=0))
    found = unit(given["query"][b]) @ direction
    return np.asarray((found - found.mean()) / found.std())


def test_the_direction_of_an_episode_is_fishers() -> None:
    given, model = episode(), head("guided")
    marked = model.variant.grid_mask(given["abnormal_mask"], GRID)
    bank, valid = model.normal_bank(given["normal"], given["abnormal"], marked, GRID)
    found = episode_direction(bank, valid, given["abnormal"], marked)
    standing = guide(given["query"], found["defect_directions"], found["normal_mean"])
    for b in range(3):
        assert standing[b].numpy() == pytest.approx(by_the_book(given, model, b), abs=1e-4)


def test_nothing_or_everything_marked_tells_no_direction() -> None:
    given = episode()
    bank = given["normal"].flatten(1, 2)
    for marked in (torch.zeros(3, 2, 20), torch.ones(3, 2, 20)):
        found = episode_direction(bank, None, given["abnormal"], marked)
        assert not bool(found["defect_directions"].any())
        assert not bool(guide(given["query"], **{"directions": found["defect_directions"], "mean": bank[:, 0]}).any())
    flat = torch.ones(3, 5, DIM)
    assert not bool(episode_direction(flat, None, given["abnormal"], torch.eye(2, 20).expand(3, -1, -1))[
        "defect_directions"
    ].any())  # fmt: skip


def test_a_guided_head_attends_by_the_direction() -> None:
    """torch's own attention with the standing of each patch added to its scores gives the same proxies."""
    given, model = episode(), head("guided")
    with torch.no_grad():
        model.guide_gain.copy_(torch.tensor([0.5, 1.0, -1.0, 2.0]))
        found = model(**given, grid=GRID)
        plain = head("discriminant+proxies+contrast")
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "guide_gain"})
        marked = model.variant.grid_mask(given["abnormal_mask"], GRID)
        bank, valid = model.normal_bank(given["normal"], given["abnormal"], marked, GRID)
        for b in range(3):
            standing = torch.from_numpy(by_the_book(given, model, b)).float()
            query = given["query"][b]
            index = plain.variant.neighbour(query[None], bank[b : b + 1], valid[b : b + 1])[0]
            key = query - bank[b][index] + sine_position(GRID, DIM)
            bias = (model.guide_gain[:, None, None] * standing).expand(4, 7, -1)
            attention = model.afl_ca.multihead_attn
            read, _ = attention(found.residual_proxies[b : b + 1], key[None], query[None], attn_mask=bias)
            proxies = model.afl_sa(model.afl_ca.norm(found.residual_proxies[b : b + 1] + read))
            assert_close(found.anomaly_proxies[b : b + 1], proxies, atol=2e-4, rtol=1e-4)
        model.guide_gain.zero_()
        assert_close(model(**given, grid=GRID).score, plain(**given, grid=GRID).score)


def test_the_gain_is_learned() -> None:
    given, model = episode(), head("guided")
    model(**given, grid=GRID).abnormal_similarity.square().sum().backward()
    assert model.guide_gain.grad is not None
    assert float(model.guide_gain.grad.abs().min()) > 0


def erased_by_the_book(residual: np.ndarray, token: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """One residual less what the principal axes of its nearest patches explain, by a singular value decomposition."""
    cosine = bank @ token / np.linalg.norm(bank, axis=1) / np.linalg.norm(token)
    around = bank[np.argsort(-cosine, kind="stable")[:NEIGHBOURS]]
    _, sizes, axes = np.linalg.svd(around - around.mean(axis=0), full_matrices=False)
    share = np.cumsum(sizes**2) / (sizes**2).sum()
    kept = axes[: int(np.searchsorted(share, KEPT)) + 1]
    return np.asarray(residual - kept.T @ (kept @ residual))


def test_residuals_lose_what_normal_patches_vary_by() -> None:
    generator = torch.Generator().manual_seed(3)
    tokens, bank, residual = (torch.randn(2, rows, DIM, generator=generator) for rows in (6, 40, 6))
    allowed = torch.rand(2, 40, generator=generator) < 0.7
    found = erase(residual, tokens, bank, allowed)
    for b in range(2):
        usable = bank[b][allowed[b]].double().numpy()
        for i in range(6):
            expected = erased_by_the_book(residual[b, i].double().numpy(), tokens[b, i].double().numpy(), usable)
            assert found[b, i].numpy() == pytest.approx(expected, abs=1e-4)
    assert float((found.norm(dim=-1) / residual.norm(dim=-1)).max()) < 1
    one = bank[:, :1]
    assert_close(erase(residual, tokens, one, None), residual)  # a single patch does not vary


def test_an_erased_head_reads_other_residuals() -> None:
    given, model = episode(), head("erased")
    plain = head("discriminant+proxies+contrast")
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        found, usual = model(**given, grid=GRID), plain(**given, grid=GRID)
    assert_close(found.normal_similarity, usual.normal_similarity)
    assert float((found.residual_proxies - usual.residual_proxies).abs().max()) > 1e-3
    assert float((found.anomaly_proxies - usual.anomaly_proxies).abs().max()) > 1e-3


def test_proxies_count_beside_the_head_free_rule() -> None:
    model = Nagl("gabor", image_size=64, variant="guided", views="none", post_processor=False).eval()
    free = Nagl("gabor", image_size=64, variant="discriminant", views="none", post_processor=False).eval()
    for one in (model, free):
        one.set_references(reference_set(1, 1))
    tokens = free.model.encode(free.pre_processor(picture(PICTURE, 41, defect=True)[None]))
    with torch.no_grad():
        found, plain = model.model.score(tokens), free.model.score(tokens)
    similarity = mean_similarity(tokens, found.anomaly_proxies)
    above = (similarity - similarity.mean()).clamp(min=0)
    assert_close(contrast(similarity), above)
    assert_close(found.score, plain.score + PROXY_CONTRAST * above, atol=1e-5, rtol=1e-4)
    assert_close(found.abnormal_similarity, (0.25 * similarity + 0.5 * _known(model, tokens)) / 0.75)


def _known(model: Nagl, tokens: Tensor) -> Tensor:
    defects = torch.nn.functional.normalize(model.model.state["defect_bank"], dim=-1)
    return ((1 + torch.nn.functional.normalize(tokens, dim=-1) @ defects.T) / 2).amax(dim=-1)


def test_names() -> None:
    assert [has_proxies(name) for name in ("guided", "erased", "guided-proxies")] == [True, True, False]
    assert Variant.parse("erased").proxies
    for name in ("extended+guide", "discriminant+eraser", "extended+contrast"):
        with pytest.raises(ValueError, match=r"expected proxies and discriminant .* add \+proxies\+discriminant"):
            Variant.parse(name)


@pytest.mark.slow
def test_a_guided_head_is_exported(tmp_path: Path) -> None:
    model = Nagl("gabor", image_size=64, variant="guided", post_processor=False).eval()
    model.set_references(reference_set(1, 1))
    image = picture(PICTURE, 41, defect=True)
    expected = float(model(image[None]).pred_score)
    file = model.to_openvino(tmp_path)
    found = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image[None].numpy())
    assert float(found["pred_score"][0]) == pytest.approx(expected, abs=1e-5)


def test_an_erased_head_is_not_exported(tmp_path: Path) -> None:
    model = Nagl("gabor", image_size=64, variant="erased", post_processor=False).eval()
    model.set_references(reference_set(1, 1))
    for write in (model.to_onnx, model.to_openvino, model.to_torch):
        with pytest.raises(ValueError, match=r"found variant 'erased', .* expected one without the eraser"):
            write(tmp_path)
