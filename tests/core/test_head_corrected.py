"""The corrected and the extended head against slow, plain versions of the same formulas, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from support.adapted import adapted
from torch import Tensor
from torch.testing import assert_close

from anomalib_nagl.core.functional import (
    BANK_CHUNK,
    anomaly_map,
    image_score,
    mask_to_grid,
    mean_similarity,
    nearest,
    sine_position,
    smoothing_matrix,
)
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.losses import NaglLoss
from anomalib_nagl.core.state import ReferenceTokens
from anomalib_nagl.core.variants import Variant

GRID, DIM, PATCH = (3, 5), 24, 4


def episode(n: int = 2, a: int = 2, batch: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = GRID[0] * GRID[1]

    def tokens(*shape: int) -> Tensor:
        return torch.randn(*shape, cells, DIM, generator=generator)

    mask = torch.zeros(batch, a, GRID[0] * PATCH, GRID[1] * PATCH)
    for b in range(batch):
        for k in range(a):
            mask[b, k, b : b + 5, 3 * k + b : 3 * k + b + 6] = 1
    return {
        "query": tokens(batch),
        "normal": tokens(batch, n),
        "abnormal": tokens(batch, a),
        "abnormal_mask": mask,
    }


def head(variant: str = "corrected", heads: int = 4) -> NaglHead:
    torch.manual_seed(1)
    return NaglHead(DIM, num_proxies=7, num_heads=heads, variant=variant).eval()


def naive(model: NaglHead, given: dict[str, Tensor], sample: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normal map, abnormal map and score of one sample, cell by cell in float64."""
    model = model.double()
    query, normal = given["query"][sample].double(), given["normal"][sample].double().reshape(-1, DIM)
    abnormal = given["abnormal"][sample].double()
    position = sine_position(GRID, DIM).double()

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    def residual(x: Tensor) -> Tensor:
        return x - max(normal, key=lambda y: cosine(x, y))

    def any_marked(shot: int, cell: int, beside: int) -> bool:
        row, col = divmod(cell, GRID[1])
        mask = given["abnormal_mask"][sample, shot]
        rows = slice(max(row - beside, 0) * PATCH, (row + 1 + beside) * PATCH)
        return bool(mask[rows, max(col - beside, 0) * PATCH : (col + 1 + beside) * PATCH].any())

    places = [(shot, cell) for shot in range(len(abnormal)) for cell in range(len(query))]
    marked = [(shot, cell) for shot, cell in places if any_marked(shot, cell, 0)]
    if model.variant.context:
        clear = [abnormal[shot, cell][None] for shot, cell in places if not any_marked(shot, cell, 1)]
        normal = torch.cat([normal, *clear])
    keys = [abnormal[shot, cell] + position[cell] for shot, cell in marked]
    values = [residual(abnormal[shot, cell]) for shot, cell in marked]
    proxies = model.learnable_proxies.weight[None]
    proxies = model.rm_sa(model.rm_ca(proxies, torch.stack(keys)[None], torch.stack(values)[None]))
    keys = torch.stack([residual(x) for x in query]) + position
    anomaly = model.afl_sa(model.afl_ca(proxies, keys[None], query[None]))[0]
    s_n = torch.tensor([max((1 + cosine(x, y)) / 2 for y in normal) for x in query])
    s_a = torch.tensor([sum((1 + cosine(x, z)) / 2 for z in anomaly) / len(anomaly) for x in query])
    model.float()
    if not model.variant.defects:
        return s_n, s_a, (s_a + 1 - s_n) / 2
    alike = torch.tensor([max((1 + cosine(x, abnormal[place])) / 2 for place in marked) for x in query])
    if not model.variant.proxies:
        return s_n, alike, (alike / 2 + 1 - s_n) / 1.5
    return s_n, (s_a + 2 * alike) / 3, (s_a / 4 + alike / 2 + 1 - s_n) / 1.75


@pytest.mark.parametrize(
    "variant", ["corrected", "extended", "extended-context", "extended-defects", "extended-proxies"]
)
@pytest.mark.parametrize(("n", "a"), [(1, 1), (2, 2), (1, 3)])
def test_head_equals_naive(n: int, a: int, variant: str) -> None:
    model, given = head(variant), episode(n, a)
    maps = model(**given, grid=GRID)
    for sample in range(len(given["query"])):
        with torch.no_grad():
            expected = naive(model, given, sample)
        for found, value in zip(maps[:3], expected, strict=True):
            assert_close(found[sample], value.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n", "a"), [(2, 2), (0, 2), (2, 0)])
def test_what_is_learned_is_all_that_a_query_needs(n: int, a: int) -> None:
    model, given = head("extended"), episode(n, a)
    together = model(**given, grid=GRID)
    marked = mask_to_grid(given["abnormal_mask"], GRID) if a else torch.zeros(3, 0, GRID[0] * GRID[1])
    for sample in range(3):
        localized = torch.ones(a, dtype=torch.bool)
        references = ReferenceTokens(given["normal"][sample], given["abnormal"][sample], marked[sample], localized)
        state = adapted(model, references, GRID)
        bank = state["normal_bank"][None]
        alone = model.score(given["query"][sample : sample + 1], state.batched(), GRID)
        assert_close(alone.score[0], together.score[sample], atol=1e-5, rtol=0)
        if n:
            assert_close(bank[0, : n * len(given["query"][0])], given["normal"][sample].flatten(0, 1))


@pytest.mark.parametrize("variant", ["corrected", "extended"])
@pytest.mark.parametrize(("n", "a"), [(2, 2), (0, 2), (2, 0)])
def test_samples_are_independent(n: int, a: int, variant: str) -> None:
    model, given = head(variant), episode(n, a)
    together = model(**given, grid=GRID)
    for sample in range(3):
        alone = model(**{key: value[sample : sample + 1] for key, value in given.items()}, grid=GRID)
        for found, expected in zip(alone, together, strict=True):
            assert_close(found[0], expected[sample], atol=1e-5, rtol=0)


def test_corrected_empty_mask_sees_everything() -> None:
    model, given = head(), episode()
    given["abnormal_mask"][1] = 0
    whole = dict(given, abnormal_mask=torch.ones_like(given["abnormal_mask"]))
    assert_close(model(**given, grid=GRID).score[1], model(**whole, grid=GRID).score[1])


def test_corrected_excludes_masked_normals() -> None:
    model, given = head(), episode(n=2)
    mask = torch.zeros(3, 2, GRID[0] * PATCH, GRID[1] * PATCH)
    mask[:, 1] = 1
    masked = model(**given, grid=GRID, normal_mask=mask)
    without = model(**dict(given, normal=given["normal"][:, :1]), grid=GRID)
    for found, expected in zip(masked, without, strict=True):
        assert_close(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="without a single normal patch"):
        model(**given, grid=GRID, normal_mask=torch.ones_like(mask))


def test_no_normal_references_use_the_rest_of_the_defect_picture() -> None:
    model, given = head(), episode(n=0, a=1)
    maps = model(**given, grid=GRID)
    marked = mask_to_grid(given["abnormal_mask"], GRID)[:, 0] > 0
    for sample in range(3):
        rest = given["abnormal"][sample, 0][~marked[sample]]
        similarity = torch.nn.functional.cosine_similarity(given["query"][sample][:, None], rest[None], dim=-1)
        assert_close(maps.normal_similarity[sample], (1 + similarity.amax(1)) / 2)
    with pytest.raises(ValueError, match="without a single normal patch"):
        model(**dict(given, abnormal_mask=torch.ones_like(given["abnormal_mask"])), grid=GRID)


def test_no_abnormal_references_need_no_parameters() -> None:
    maps = head()(**episode(a=0), grid=GRID)
    assert_close(maps.score, 1 - maps.normal_similarity)
    assert maps.anomaly_proxies.shape == (3, 0, DIM)


@pytest.mark.parametrize("dim", [6, 10, 34])
def test_any_width_that_the_heads_divide(dim: int) -> None:
    assert sine_position((2, 3), dim).shape == (6, dim)
    tokens = torch.randn(1, 1, 6, dim)
    maps = NaglHead(dim, 3, 2, "corrected")(tokens[:, 0], tokens + 1, tokens - 1, torch.ones(1, 1, 4, 6), (2, 3))
    assert maps.score.shape == (1, 6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NaglHead(384, num_heads=5), "384 and 5 attention heads"),
        (lambda: NaglHead(variant="exact"), "'exact', expected one of paper, corrected, extended, discriminant"),
        (lambda: NaglHead(variant="paper-Q99"), "Q13"),
        (lambda: head()(**episode(n=0, a=0), grid=GRID), "no references at all"),
        (lambda: head()(**episode(), grid=(5, 5)), r"expected \(..., 25, 24\)"),
        (lambda: head()(**dict(episode(), abnormal_mask=torch.ones(3, 1, 12, 20)), grid=GRID), "abnormal masks"),
        (lambda: head()(**dict(episode(), abnormal_mask=torch.ones(3, 2, 13, 20)), grid=GRID), "13x20"),
        (lambda: head().load_published({}), "learnable_proxies.weight is missing"),
        (lambda: head().load_published(NaglHead(48, 7).state_dict()), r"\(7, 48\) instead of \(7, 24\)"),
        (
            lambda: NaglLoss()(head()(**episode(), grid=GRID), torch.zeros(3, 12, 20), torch.zeros(3), GRID),
            "at least 20",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_variants_switch_single_quirks() -> None:
    assert Variant.parse("paper-Q1-Q2").mixed_masks is False
    assert Variant.parse("paper-Q1-Q2").interleaved_positions is False
    assert Variant.parse("paper-Q1").interleaved_positions is True
    assert Variant.parse("corrected + Q13").top_twenty is True
    assert Variant.parse("corrected+context+defects") == Variant.parse("extended")
    with pytest.raises(ValueError, match="add -Q11"):
        Variant.parse("paper+context")
    with pytest.raises(ValueError, match="add \\+discriminant"):
        Variant.parse("corrected-proxies")


@pytest.mark.parametrize("quirk", ["Q1", "Q2", "Q3", "Q4", "Q5"])
def test_every_quirk_of_the_forward_pass_has_an_effect(quirk: str) -> None:
    given = episode(seed=3)
    corrected, switched = head(), head(f"corrected+{quirk}")
    assert (corrected(**given, grid=GRID).score - switched(**given, grid=GRID).score).abs().max() > 1e-4


def test_corrected_loss_supervises_the_test_score_and_scales() -> None:
    maps = head()(**episode(), grid=GRID)
    loss = NaglLoss("corrected")
    assert_close(loss.training_score(maps.score), image_score(maps.score))
    right = maps._replace(
        normal_similarity=torch.ones(3, 15), abnormal_similarity=torch.zeros(3, 15), score=torch.zeros(3, 15)
    )
    parts = loss(right, torch.zeros(3, 12, 20), torch.zeros(3), GRID)
    assert parts.total < 0.05
    assert_close(parts.total, parts.cross_entropy + parts.focal + parts.dice)


def test_nearest_in_chunks_equals_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, bank = torch.randn(2, 9, 8), torch.randn(2, 50, 8)
    whole = nearest(tokens, bank)
    monkeypatch.setattr("anomalib_nagl.core.functional.BANK_CHUNK", 7)
    for found, expected in zip(nearest(tokens, bank), whole, strict=True):
        assert_close(found, expected)
    assert BANK_CHUNK > 1024


def test_mean_similarity_equals_the_mean_over_proxies() -> None:
    tokens, proxies = torch.randn(2, 9, 8), torch.randn(2, 4, 8)
    each = torch.nn.functional.cosine_similarity(tokens[:, :, None], proxies[:, None], dim=-1)
    assert_close(mean_similarity(tokens, proxies), ((1 + each) / 2).mean(-1))


def test_smoothing_equals_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    cells = torch.rand(1, 4, 7)
    large = torch.nn.functional.interpolate(cells[None], (30, 41), mode="bilinear")[0, 0]
    expected = gaussian_filter(large.numpy(), sigma=2.5, mode="reflect", truncate=4.0)
    matrices = smoothing_matrix(4, 30, 2.5), smoothing_matrix(7, 41, 2.5)
    assert_close(anomaly_map(cells.flatten(1), *matrices)[0, 0], torch.from_numpy(expected), atol=1e-5, rtol=0)
