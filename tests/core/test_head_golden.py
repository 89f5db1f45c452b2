"""The head against the published code's numbers: maps, residuals, proxies, losses, gradients, training trajectory."""

from __future__ import annotations

import pytest
import torch
from support.goldens import CASES, GRID, MAPS, inputs, load, published_head
from torch import Tensor
from torch.testing import assert_close

from anomalib_nagl.core.functional import gather_patches, mask_to_grid, nearest, sine_position
from anomalib_nagl.core.head import NaglMaps
from anomalib_nagl.core.losses import NaglLoss

ABNORMAL_CASES = tuple(c for c in CASES if c != "n1a0")


def check_maps(maps: NaglMaps, case: dict[str, Tensor], prefix: str) -> None:
    checked = 0
    for field, (name, tolerance) in MAPS.items():
        if f"{prefix}.{name}" in case:
            assert_close(getattr(maps, field), case[f"{prefix}.{name}"], atol=tolerance, rtol=0)
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("name", CASES)
def test_paper_maps(name: str) -> None:
    case = load(name)
    check_maps(published_head()(**inputs(case), grid=GRID), case, "out")


@pytest.mark.parametrize("name", CASES)
def test_paper_losses(name: str) -> None:
    case = load(name)
    maps = published_head()(**inputs(case), grid=GRID)
    loss = NaglLoss()
    losses = loss(maps, case["in.query_mask"], case["in.query_label"], grid=GRID)
    assert_close(loss.training_score(maps.score), case["out.top20_mean"], atol=1e-5, rtol=0)
    for field in ("cross_entropy", "focal", "dice", "total"):
        key = {"cross_entropy": "out.loss_ce", "total": "out.loss"}.get(field, f"out.loss_{field}")
        assert_close(getattr(losses, field), case[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ABNORMAL_CASES)
def test_paper_gradients(name: str) -> None:
    case, gold, sketch = load(name), load(f"{name}.grads"), load("sketch")
    head = published_head()
    NaglLoss()(head(**inputs(case), grid=GRID), case["in.query_mask"], case["in.query_label"], GRID).total.backward()
    for parameter, value in head.named_parameters():
        tolerance = 1e-4 * max(gold[f"norm.{parameter}"].item(), 1e-6)
        if f"grad.{parameter}" in gold:
            assert (value.grad - gold[f"grad.{parameter}"]).norm() <= tolerance, parameter
            continue
        rows, cols = sketch[f"r{value.shape[1]}"].float(), sketch[f"r{value.shape[0]}"].float()
        # A +-1 sketch of width 8 grows a difference by about sqrt(8).
        assert (value.grad @ rows - gold[f"rows.{parameter}"]).norm() <= 3 * tolerance, parameter
        assert (cols.T @ value.grad - gold[f"cols.{parameter}"]).norm() <= 3 * tolerance, parameter


def test_adamw_trajectory() -> None:
    case, gold = load("n1a1"), load("n1a1.adamw")["loss_trajectory"]
    head = published_head()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in gold:
        loss = NaglLoss()(head(**inputs(case), grid=GRID), case["in.query_mask"], case["in.query_label"], GRID).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_close(torch.tensor(losses).double(), gold, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ABNORMAL_CASES)
def test_intermediate_values(name: str) -> None:
    """Grids, neighbours, residuals, positions and the attention bias of residual mining, one by one."""
    case, head = load(name), published_head()
    given = inputs(case)
    marked = mask_to_grid(given["abnormal_mask"], GRID, shifted=True)
    assert torch.equal(marked, case["out.abnormal_grid"])
    source = given["normal_mask"] if given["normal"].shape[1] else given["abnormal_mask"]
    assert torch.equal(mask_to_grid(1 - source, GRID, shifted=True), case["out.normal_ref_grid"])
    bank, _ = head.normal_bank(given["normal"], given["abnormal"], marked, GRID, given["normal_mask"])
    if "out.normal_pool" in case:
        assert torch.equal(bank, case["out.normal_pool"])
    for tokens, kind in ((given["abnormal"].flatten(1, 2), "ref"), (given["query"], "query")):
        index = nearest(tokens, bank).patch
        assert torch.equal(index, case[f"out.{kind}_nn_index"].long())
        assert_close(
            (tokens - gather_patches(bank, index)).view_as(case[f"out.{kind}_residual"]), case[f"out.{kind}_residual"]
        )
    bias = head.variant.mining_bias(marked.flatten(1), 25, 4)
    assert torch.equal(bias[:, 0], case["out.rm_attn_mask"])
    assert torch.equal(bias[:, 0], bias[:, -1])
    position = sine_position(GRID, 384, marked != 0).transpose(1, 2).flatten(1, 2)
    assert_close(position.transpose(0, 1), case["out.rm_pos"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*ABNORMAL_CASES, "n0a1_odd"])
def test_single_samples(name: str) -> None:
    """Correcting Q1 and Q7 alone equals the published code run one sample at a time."""
    case = load(name)
    check_maps(published_head("paper-Q1-Q7")(**inputs(case), grid=GRID), case, "solo")


def test_aligned_positions() -> None:
    """Correcting Q1 and Q2 alone equals single samples with positions in the order of the keys."""
    case = load("n4a2")
    check_maps(published_head("paper-Q1-Q2-Q7")(**inputs(case), grid=GRID), case, "solo_pefix")


def test_odd_pool_raises_as_published() -> None:
    with pytest.raises(ValueError, match="Q7"):
        published_head()(**inputs(load("n0a1_odd")), grid=GRID)


@pytest.mark.parametrize(("name", "masked"), [("nomask", False), ("mask", True)])
@pytest.mark.parametrize("count", [1, 2])
def test_position_embedding(name: str, masked: bool, count: int) -> None:
    gold = load("posenc")
    mask = gold[f"mask_n{count}.mask"] != 0 if masked else torch.zeros(2, count, 16, dtype=torch.bool)
    position = sine_position((4, 4), 384, mask)
    for key, ordered in ((f"{name}_n{count}", position.transpose(1, 2)), (f"{name}_n{count}.aligned", position)):
        if key in gold:
            assert_close(ordered.flatten(1, 2).transpose(0, 1), gold[key], atol=1e-5, rtol=0)


def test_mask_grid() -> None:
    gold = load("mask_grid")
    mask = gold["mask448"]
    for key, value in {
        "grid448": mask,
        "grid448_of_complement": 1 - mask,
        "grid448_of_255": 255 * mask,
        "grid448_of_1_minus_255": 1 - 255 * mask,
    }.items():
        assert torch.equal(mask_to_grid(value, (32, 32), shifted=True), gold[key]), key


@pytest.mark.parametrize("size", [112, 448])
def test_mask_grid_pixels(size: int) -> None:
    gold, side = load("mask_grid"), size // 14
    pixels, cells = gold[f"pixel_rc_{size}"].long(), gold[f"pixel_cell_{size}"].long()
    mask = torch.zeros(len(pixels), 1, size, size)
    mask[torch.arange(len(pixels)), 0, pixels[:, 0], pixels[:, 1]] = 1
    shifted = mask_to_grid(mask, (side, side), shifted=True)[:, 0]
    assert torch.equal(torch.where(shifted.any(1), shifted.argmax(1), -1), cells)
    aligned = mask_to_grid(mask, (side, side))[:, 0]
    assert torch.equal(aligned.argmax(1), pixels[:, 0] // 14 * side + pixels[:, 1] // 14)


@pytest.mark.parametrize("kind", ["unit", "wide"])
def test_pixel_losses(kind: str) -> None:
    from torchvision.ops import sigmoid_focal_loss

    from anomalib_nagl.core.losses import dice_loss

    gold = load("losses")
    target = torch.stack([1 - gold[f"{kind}.mask"], gold[f"{kind}.mask"]], dim=1)
    for name, function in (("focal", lambda x, t: sigmoid_focal_loss(x, t, reduction="mean")), ("dice", dice_loss)):
        logits = gold[f"{kind}.input"].requires_grad_()
        logits.grad = None
        value = function(logits, target)
        value.backward()
        assert_close(value, gold[f"{kind}.{name}"], atol=1e-5, rtol=0)
        assert_close(logits.grad, gold[f"{kind}.{name}.grad"], atol=1e-6, rtol=0)


def test_cross_entropy() -> None:
    gold = load("losses")
    score = gold["ce.score"].requires_grad_()
    value = torch.nn.functional.cross_entropy(torch.stack([1 - score, score], 1), gold["ce.label"])
    value.backward()
    assert_close(value, gold["ce.value"], atol=1e-5, rtol=0)
    assert_close(score.grad, gold["ce.grad"], atol=1e-6, rtol=0)
