"""Abnormal references made of normal ones: repeatable, bounded, and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.commands import anomalib
from support.reference_folders import copy_references

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.references import synthetic
from anomalib_nagl.references.images import load_image
from anomalib_nagl.references.names import SYNTHETIC_METHODS
from anomalib_nagl.references.synthetic import METHODS, with_synthetic

GABOR = ("--model", "Nagl", "--model.backbone", "gabor", "--model.image_size", 128)


@pytest.fixture
def part(drawn: Path, folder: Path) -> Path:
    copy_references(drawn, folder)
    torch.save(Nagl("gabor", image_size=256).model.head.state_dict(), "head.pth")
    return folder


def test_every_method_that_settings_know_is_there_with_the_plugin() -> None:
    assert set(METHODS) == set(SYNTHETIC_METHODS)


def test_a_method_that_needs_anomalib_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "METHODS", {"cut_paste": synthetic.cut_paste})
    with pytest.raises(ValueError, match=r"synthetic='perlin' without its generator.*import anomalib_nagl\.plugin"):
        with_synthetic(ReferenceSet(normal=(torch.rand(3, 32, 32),)), 1, "perlin")


def test_they_are_made_of_normal_references_alone() -> None:
    only = ReferenceSet(abnormal=(torch.rand(3, 32, 32),), masks=(torch.ones(32, 32),))
    assert with_synthetic(only, 0) is only
    with pytest.raises(ValueError, match="no normal reference to make abnormal ones from"):
        with_synthetic(only, 1)


def test_a_spot_of_no_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib_nagl.plugin import perlin

    monkeypatch.setattr(
        perlin, "PerlinAnomalyGenerator", lambda probability: lambda image: (image, torch.zeros(1, 32, 32))
    )
    with pytest.raises(ValueError, match="empty spot of the Perlin generator"):
        perlin.perlin([torch.rand(3, 32, 32)], 0, (0, 0))


@pytest.mark.parametrize("method", SYNTHETIC_METHODS)
def test_synthetic_references_repeat_and_change_only_what_they_mark(drawn: Path, method: str) -> None:
    paths = [drawn / f"plug/train/good/{i:03}.png" for i in (0, 1)]
    normal = ReferenceSet(normal=tuple(load_image(path) for path in paths))
    made, again, other = (with_synthetic(normal, 3, method, seed) for seed in (0, 0, 1))
    assert made.records() == again.records()
    assert {r["sha256"] for r in made.records()[2:]}.isdisjoint({r["sha256"] for r in other.records()[2:]})
    assert made.mask_sources == ("synthetic",) * 3
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
    ("count", "method", "message"),
    [(1, "drawn", "synthetic='drawn', expected one of cut_paste, perlin"), (-1, "perlin", "synthetic_abnormal=-1")],
)
def test_bad_synthetic_settings(count: int, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_synthetic(ReferenceSet(normal=(torch.rand(3, 32, 32),)), count, method)


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
