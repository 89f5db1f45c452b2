"""Metrics of an evaluation against the published code's numbers, scikit-learn and anomalib's classes on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from support import goldens

from anomalib_nagl.evaluation.metrics import curves, measure
from anomalib_nagl.evaluation.records import METRICS, Scored


def drawn(steps: int, factor: float = 1.0, seed: int = 0) -> Scored:
    """Twenty queries, half of them with a block and a dot that touches it at a corner; ``steps`` different scores."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(20, 24, 32, dtype=torch.uint8)
    masks[::2, 5:11, 8:15] = 1
    masks[::2, 11, 15] = 1
    masks[::4, 20:22, 2:30] = 1
    maps = torch.rand(masks.shape, generator=generator) + 0.4 * masks
    maps = (maps * steps).round() / steps * factor
    types = tuple("bent" if mask.any() else "good" for mask in masks)
    return Scored(tuple(map(str, range(20))), types, maps.amax((1, 2)), maps, masks)


def golden() -> Scored:
    case = goldens.load("evaluation")
    types = tuple("bent" if label else "good" for label in case["image.label"])
    return Scored(tuple(map(str, range(11))), types, case["image.score"], case["pixel.map"], case["pixel.gt"])


def test_published_evaluation():
    case, values = goldens.load("evaluation"), measure(golden())
    published = {
        "image_AUROC": "classification_AUROC",
        "image_AP": "classification_AP",
        "image_F1max": "classification_F1",
        "pixel_AUROC": "seg_AUROC",
        "pixel_F1max": "seg_F1",
        "AUPRO": "seg_AUPRO",
    }
    for name, key in published.items():
        assert values[name] == pytest.approx(case[f"metric.{key}"].item(), abs=1e-7), name


def test_published_curve():
    case, found = goldens.load("evaluation"), curves(golden())
    inside = case["pro.fpr"] <= 0.3
    steps = np.unique(case["pro.fpr"][inside].numpy())
    assert len(steps) > 10
    # Where the curve jumps it has two values; both codes end a jump at the same place.
    highest = [case["pro.pro"][case["pro.fpr"] == step].max().item() for step in steps]
    ours = [np.interp(step + 1e-9, found["pro_fpr"], found["pro"]) for step in steps[:-1]]
    np.testing.assert_allclose(ours, highest[:-1], atol=1e-5)
    assert found["pro_fpr"][-1] == 0.3


@pytest.mark.parametrize("steps", [10, 1000, 10**6])
def test_scikit_learn(steps):
    scored = drawn(steps)
    values = measure(scored)
    labels = {"image": np.array([kind != "good" for kind in scored.types]), "pixel": scored.masks.flatten().numpy()}
    scores = {"image": scored.scores.numpy(), "pixel": scored.maps.flatten().numpy()}
    for level in ("image", "pixel"):
        precision, recall, _ = precision_recall_curve(labels[level], scores[level])
        expected = {
            "AUROC": roc_auc_score(labels[level], scores[level]),
            "AP": average_precision_score(labels[level], scores[level]),
            "F1max": np.max(2 * precision * recall / (precision + recall + 1e-10)),
        }
        for name, value in expected.items():
            assert values[f"{level}_{name}"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("steps", [10, 1000, 10**6])
def test_anomalib_without_the_shared_curve(steps):
    scored, values = drawn(steps, factor=0.5), measure(drawn(steps, factor=0.5))
    labels = torch.tensor([kind != "good" for kind in scored.types])
    batch = ImageBatch(
        image=torch.zeros(20, 3, 24, 32),
        pred_score=scored.scores,
        gt_label=labels,
        anomaly_map=scored.maps,
        gt_mask=scored.masks.bool(),
    )
    assert scored.maps.max() <= 1  # beyond, the classes put a sigmoid before
    for level, fields in {"image": ["pred_score", "gt_label"], "pixel": ["anomaly_map", "gt_mask"]}.items():
        for name, kind in {"AUROC": AUROC, "AP": AUPR, "F1max": F1Max}.items():
            metric = kind(fields)
            metric.update(batch)
            assert values[f"{level}_{name}"] == pytest.approx(metric.compute().item(), abs=2e-6), (level, name)
    metric = AUPRO(["anomaly_map", "gt_mask"])
    metric.update(batch)
    assert values["AUPRO"] == pytest.approx(metric.compute().item(), abs=2e-6)


def test_any_scale_gives_the_same():
    assert measure(drawn(1000, factor=512.0)) == measure(drawn(1000))


def test_region_that_fills_its_picture_counts():
    scored = drawn(1000)
    scored.masks[0] = 1
    scored.maps[0] = -1.0
    without = measure(scored.only(list(range(1, 20))))["AUPRO"]
    regions = 9 * 1 + 4 * 1  # of the other images: blocks with their dots, and bars
    assert measure(scored)["AUPRO"] == pytest.approx(without * regions / (regions + 1), abs=1e-9)


def test_perfect_and_useless():
    scored = drawn(1000)
    perfect = Scored(scored.names, scored.types, scored.masks.amax((1, 2)).float(), scored.masks.float(), scored.masks)
    assert measure(perfect) == pytest.approx(dict.fromkeys(METRICS, 1.0))
    flat = Scored(scored.names, scored.types, torch.ones(20), torch.ones(scored.maps.shape), scored.masks)
    values, share = measure(flat), scored.masks.float().mean().item()
    assert (values["image_AUROC"], values["pixel_AUROC"], values["image_AP"]) == (0.5, 0.5, 0.5)
    assert values["pixel_AP"] == pytest.approx(share, abs=1e-7)
    assert values["AUPRO"] == pytest.approx(0.15)


def test_undefined_is_nan():
    scored = drawn(100)
    good = [i for i, kind in enumerate(scored.types) if kind == "good"]
    assert all(math.isnan(value) for value in measure(scored.only(good)).values())
    assert all(len(points) == 0 for points in curves(scored.only(good)).values())
    bent = [i for i, kind in enumerate(scored.types) if kind != "good"]
    values = measure(scored.only(bent))
    assert [name for name in METRICS if math.isnan(values[name])] == ["image_AUROC", "image_AP", "image_F1max"]


def test_scores_that_are_not_numbers():
    scored = drawn(100)
    scored.maps[3, 2, 1] = float("nan")
    with pytest.raises(ValueError, match="found 1 of 15360 that are not numbers"):
        measure(scored)


def test_curves_keep_their_areas_when_thinned():
    scored = drawn(10**6)
    values, found = measure(scored), curves(scored)
    assert all(0 < len(points) <= 200 for points in found.values())
    for x, y, area in (
        ("roc_fpr", "roc_tpr", values["image_AUROC"]),
        ("pixel_fpr", "pixel_tpr", values["pixel_AUROC"]),
        ("pro_fpr", "pro", 0.3 * values["AUPRO"]),
    ):
        assert (np.diff(found[x]) >= 0).all()
        assert np.trapezoid(found[y], found[x]) == pytest.approx(area, abs=5e-3)
