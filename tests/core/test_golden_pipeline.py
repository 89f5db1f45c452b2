"""What surrounds the head against the published code's numbers: preprocessing, maps, scores, episodes, metrics."""

from __future__ import annotations

import json
import random

import numpy as np
import PIL
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO, AUROC, F1Max
from packaging.version import Version
from safetensors.torch import load_file
from support.goldens import find, load
from torch.testing import assert_close

from anomalib_nagl.core.functional import anomaly_map, binned_auroc, image_score, smoothing_matrix
from anomalib_nagl.plugin.episodes import Pool, draw_published
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.references.sampling import Sample

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", ["up", "down", "crop"])
def test_preprocessing(name: str) -> None:
    gold = load_file(find("preprocess_and_map.safetensors"))
    side, rows, cols = gold[f"{name}.size_grid"].tolist()
    transform = NaglPreProcessor((side, side), *IMAGENET, published=True).transform
    picture = gold[f"{name}.image"].permute(2, 0, 1) / 255
    # The numbers are those of Pillow 13; earlier releases round some pixels the other way when they reduce an image.
    grey_level = 1 / 255 / min(IMAGENET[1])
    atol = 1e-6 if Version(PIL.__version__) >= Version("13") else 1.001 * grey_level
    # Cropped to whole patches, as the published test does; our sizes are whole patches to begin with.
    assert_close(transform(picture)[:, : rows * 14, : cols * 14], gold[f"{name}.tensor"], atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "size"), [("8", (97, 131)), ("32", (200, 160))])
def test_anomaly_map(name: str, size: tuple[int, int]) -> None:
    gold = load("preprocess_and_map")
    cells = gold[f"map.in{name}"]
    matrices = [smoothing_matrix(n, pixels, sigma=4) for n, pixels in zip(cells.shape, size, strict=True)]
    smoothed = anomaly_map(cells.flatten()[None], *matrices)[0, 0]
    assert_close(smoothed, gold[f"map.out{name}_{size[0]}x{size[1]}"], atol=1e-5, rtol=0)
    score = image_score(cells.flatten()[None].double())[0]
    assert_close(score, gold[f"score.in{name}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["image", "pixel"])
def test_selection_metric(kind: str) -> None:
    gold = load("selection_metric")
    found = binned_auroc(gold[f"{kind}.score"], gold[f"{kind}.label"])
    assert_close(found, gold[f"{kind}.auroc"], atol=1e-9, rtol=0)
    assert abs(found - gold[f"{kind}.auroc_exact"]) > 1e-6


@pytest.mark.parametrize("run", range(5))
def test_published_episodes(run: int) -> None:
    gold = json.loads(find("episodes.json").read_text())
    recorded = gold["runs"][run]
    records = {
        name: [(f"{dataset}/{r['img_path']}", r["specie_name"], r["anomaly"]) for r in rows]
        for dataset, classes in gold["meta"].items()
        for name, rows in classes.items()
    }
    pools = []
    for name in recorded["products"]:
        kinds = [tuple(Sample(path, None, kind) for path, kind, a in records[name] if a == label) for label in (0, 1)]
        pools.append(Pool(name, kinds[0], kinds[0], kinds[1]))
    numpy, python = np.random.RandomState(recorded["seed"]), random.Random(recorded["seed"])
    for expected in recorded["episodes"]:
        drawn = draw_published(pools, recorded["n_shot"], recorded["a_shot"], numpy, python)
        assert drawn.query.image == expected["query"]
        assert drawn.label == expected["label"]
        assert [s.image for s in drawn.normal] == expected["normal"]
        assert [s.image for s in drawn.abnormal] == expected["abnormal"]


def test_reported_metrics_are_those_of_anomalib() -> None:
    """The published evaluation equals anomalib's own classes, so that none is written twice."""
    gold = load("evaluation")
    items = {
        "gt_mask": gold["pixel.gt"] > 0,
        "gt_label": gold["image.label"].bool(),
        "pred_score": gold["image.score"].float(),
        "anomaly_map": gold["pixel.map"],
    }
    batch = ImageBatch(image=torch.zeros(11, 3, 48, 64), **items)
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = {
        "classification_AUROC": AUROC(image),
        "classification_AP": AUPR(image),
        "classification_F1": F1Max(image),
        "seg_AUROC": AUROC(pixel),
        "seg_F1": F1Max(pixel),
        "seg_AUPRO": AUPRO(pixel),
    }
    for name, metric in metrics.items():
        metric.update(batch)
        assert_close(metric.compute().double(), gold[f"metric.{name}"], atol=1e-5, rtol=0, msg=name)
    assert_close(image_score(gold["image.grid"].flatten(1)).double(), gold["image.score"], atol=1e-5, rtol=0)
