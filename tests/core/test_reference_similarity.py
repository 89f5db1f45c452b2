"""Which reference a prediction resembles, results for each defect type, and synthetic defects."""

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

from anomalib_nagl import Nagl, ReferenceSet, ReferenceVisualizer
from anomalib_nagl.core.reference_similarity import OwnedPatches, reference_similarity
from anomalib_nagl.plugin.defect_type_report import TypeResults
from anomalib_nagl.references.images import load_image
from anomalib_nagl.references.synthetic import with_synthetic

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
    # The copy of a reference is not inspected; of every other picture there is a row of panels.
    assert {Path(path).name for path in cli.datamodule.test_data.samples.image_path} == {"good.png", "spot.png"}
    pictures = sorted(Path(cli.engine.trainer.default_root_dir).rglob("images/**/*.png"))
    assert [path.name for path in pictures] == ["good.png", "spot.png"]
    similarity = torch.tensor([0.1, 0.2, 0.9, 0.3])
    panels = ReferenceVisualizer().reference_panels(cli.model.model, similarity, ["good", "good", "missing", "spot"])
    framed = [np.array(panel.convert("RGB"))[-3:, 128].mean(0).round().tolist() == [255, 200, 0] for panel in panels]
    assert framed == [False, True]
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


@pytest.mark.parametrize("kind", ["cut_paste", "perlin"])
def test_synthetic_references_repeat_and_change_only_what_they_mark(drawn: Path, kind: str) -> None:
    paths = [drawn / f"plug/train/good/{i:03}.png" for i in (0, 1)]
    normal = ReferenceSet(normal=tuple(load_image(path) for path in paths))
    made, again, other = (with_synthetic(normal, 3, kind, seed) for seed in (0, 0, 1))
    assert made.records() == again.records()
    assert {r["sha256"] for r in made.records()[2:]}.isdisjoint({r["sha256"] for r in other.records()[2:]})
    assert made.mask_origins == ("synthetic",) * 3
    for number, (image, mask) in enumerate(zip(made.abnormal, made.masks, strict=True)):
        assert mask is not None
        assert 0 < float(mask.float().mean()) < 0.6
        changed = (image - normal.normal[number % 2]).abs().amax(0)
        near = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0] > 0  # the border is blended
        assert float(changed[mask > 0].mean()) > 0.02
        assert float(changed[~near].max()) < 1e-3
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in made.abnormal)


def test_synthetic_references_from_the_command_line_and_back(part: Path) -> None:
    common = (
        "train",
        *GABOR,
        "--model.visualizer",
        "false",
        "--model.head",
        "head.pth",
        "--data",
        "ReferenceDataModule",
    )
    cli = anomalib(*common, "--data.references", "references", "--data.n_abnormal", 0, "--data.synthetic_abnormal", 2)
    assert [record["defect_type"] for record in cli.model.references] == ["good", "good", "synthetic", "synthetic"]
    assert len(cli.model.model.residual_proxies)
    record = Path(cli.engine.trainer.default_root_dir) / "references.json"
    again = anomalib(*common, "--data.references", record)
    assert torch.equal(again.model.model.residual_proxies, cli.model.model.residual_proxies)


@pytest.mark.parametrize(
    ("count", "kind", "message"),
    [(1, "drawn", "synthetic='drawn', expected one of cut_paste, perlin"), (-1, "perlin", "synthetic_abnormal=-1")],
)
def test_bad_synthetic_settings(count: int, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_synthetic(ReferenceSet(normal=(torch.rand(3, 32, 32),)), count, kind)


def test_a_head_is_trained_for_synthetic_references(folder: Path, drawn: Path) -> None:
    part = ("--data.target", "MVTecAD", "--data.target.root", drawn, "--data.target.category", "plug")
    source = ("--data.source", "MVTecAD", "--data.source.root", drawn, "--data.source.category", "cloth")
    cli = anomalib(
        "train", *GABOR, "--model.visualizer", "false", "--model.epochs", 1, "--data", "ReferenceDataModule", *part,
        *source, "--data.episodes", 8, "--data.n_abnormal", 0, "--data.synthetic_abnormal", 1,
    )  # fmt: skip
    assert cli.model.head_trained
    assert [record["defect_type"] for record in cli.model.references] == ["good", "synthetic"]
    assert len(cli.datamodule.test_data) == 40  # no real defect was taken
