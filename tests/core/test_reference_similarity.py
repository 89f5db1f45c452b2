"""Which reference a prediction resembles, and results for each defect type."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from support.commands import anomalib
from support.reference_folders import copy_references

from anomalib_nagl import Nagl, ReferenceVisualizer
from anomalib_nagl.core.reference_similarity import OwnedPatches, reference_similarity
from anomalib_nagl.plugin.defect_type_report import TypeResults

GABOR = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 128)


@pytest.fixture
def part(drawn: Path, folder: Path) -> Path:
    copy_references(drawn, folder)
    torch.save(Nagl("gabor", image_size=256).model.head.state_dict(), "head.pth")
    return folder


def test_similarity_is_that_of_the_most_anomalous_patches() -> None:
    """Against loops: two queries, two normal and two abnormal references, 200 patches."""
    generator = torch.Generator().manual_seed(0)
    tokens, normal = torch.randn(2, 200, 8, generator=generator), torch.randn(2, 200, 8, generator=generator)
    score, abnormal = torch.rand(2, 200, generator=generator), torch.randn(5, 8, generator=generator)
    owner = torch.tensor([0, 0, 1, 1, 1])
    whose = torch.arange(2).repeat_interleave(200)
    known = OwnedPatches(normal.flatten(0, 1), whose, 2), OwnedPatches(abnormal, owner, 2)
    found = reference_similarity(tokens, score, *known)
    for query in range(2):
        top = score[query].argsort(descending=True)[:2]
        banks = [normal[0], normal[1], abnormal[:2], abnormal[2:]]
        for place, bank in enumerate(banks):
            best = [max(float(torch.cosine_similarity(tokens[query, p], b, dim=0)) for b in bank) for p in top]
            assert float(found[query, place]) == pytest.approx(np.mean(best), abs=1e-5)


def test_predictions_name_the_reference_and_pictures_show_it(part: Path, drawn: Path) -> None:
    shutil.copy("references/normal/001.png", "new/known.png")  # a reference itself
    shutil.rmtree("references/abnormal/missing")
    shutil.copytree(drawn / "plug/test/missing", "references/abnormal/missing")
    for extra in sorted(Path("references/abnormal/missing").iterdir())[1:]:
        extra.unlink()
    cli = anomalib(
        "predict", *GABOR, "--model.head", "head.pth", "--data", "ReferenceDataModule", "--data.references",
        "references", "--data.pictures", "new", "--return_predictions", "true",
    )  # fmt: skip
    found = cli.model.predict("new/known.png").nearest_reference
    assert (found.kind, found.defect_type, Path(found.name).name) == ("normal", "good", "001.png")
    assert found.similarity == pytest.approx(1, abs=1e-4)
    # The copy of a reference is not inspected; of every other image there is a row of panels.
    assert {Path(path).name for path in cli.datamodule.test_data.samples.image_path} == {"good.png", "spot.png"}
    pictures = sorted(Path(cli.engine.trainer.default_root_dir).rglob("images/**/*.png"))
    assert [path.name for path in pictures] == ["good.png", "spot.png"]
    similarity = torch.tensor([0.1, 0.2, 0.9, 0.3])
    panels = ReferenceVisualizer().reference_panels(cli.model, similarity)
    assert [panel.title.startswith("nearest: ") for panel in panels] == [False, True]
    assert [panel.mask is None for panel in panels] == [True, False]
    assert all(Image.open(path).width > 256 * 3 for path in pictures)


def test_results_for_each_type(part: Path, drawn: Path) -> None:
    cli = anomalib(
        "train", *GABOR, "--model.visualizer", "false", "--data", "ReferenceDataModule", "--data.n_abnormal", 0,
        "--data.target", "MVTecAD", "--data.target.root", drawn, "--data.target.category", "plug",
        "--data.target.num_workers", 0,
    )  # fmt: skip
    table = Path(cli.engine.trainer.default_root_dir) / "per_type.csv"
    rows = {row["type"]: row for row in csv.DictReader(table.open())}
    assert set(rows) == {"spot", "missing", "scratch"}
    assert all(0 <= float(row[key]) <= 1 for row in rows.values() for key in ("image_AUROC", "pixel_AUROC"))
    scores = {
        kind: [cli.model.predict(path).raw_score for path in sorted((drawn / "plug/test" / kind).iterdir())]
        for kind in ("good", "spot")
    }
    labels = [0] * len(scores["good"]) + [1] * len(scores["spot"])
    expected = roc_auc_score(labels, scores["good"] + scores["spot"])
    assert float(rows["spot"]["image_AUROC"]) == pytest.approx(expected, abs=1e-3)


def test_pixel_results_equal_an_exact_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(4, 1, 20, 20, generator=generator), torch.rand(4, 20, 20, generator=generator) > 0.8
    masks[:2] = False
    labels = torch.tensor([0, 0, 1, 1])
    results = TypeResults({"c": "dent", "d": "hole"})
    results.update(["a", "b", "c", "d"], labels, maps.amax((1, 2, 3)), maps, masks)
    for place, row in zip((2, 3), results.rows(), strict=True):
        chosen = [0, 1, place]
        expected = roc_auc_score(masks[chosen].flatten(), maps[chosen].flatten())
        assert float(row["pixel_AUROC"]) == pytest.approx(expected, abs=1e-3)
