"""The scripts that measure: curves over the number of references, and the reading of value-order decomposition."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.commands import CONFIGS

from anomalib_nagl.evaluation.records import METRICS, Cell
from anomalib_nagl.evaluation.results import write_cell

EXAMPLES = CONFIGS.parent / "examples"


@pytest.fixture(scope="module")
def vod() -> dict:
    return runpy.run_path(str(EXAMPLES / "vod.py"))


def known(vod: dict, normal: torch.Tensor, abnormal: torch.Tensor) -> tuple:
    return vod["Known"](normal, abnormal, torch.ones(vod["VALUES"]))


def test_values_are_kept_and_their_order_is_dropped(vod: dict) -> None:
    residuals = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    values = vod["ordered_values"](residuals)
    shuffled = residuals[..., torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    assert values.shape == (2, 5, vod["VALUES"])
    torch.testing.assert_close(vod["ordered_values"](-shuffled), values)
    assert bool((values.diff(dim=-1) <= 0).all())
    torch.testing.assert_close(values.mean(-1), residuals.abs().mean(-1))


def test_what_is_known_has_no_residual(vod: dict) -> None:
    normal, abnormal = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2))
    seen = vod["reading"](torch.stack([normal[:3], abnormal[:3]]), known(vod, normal, abnormal))
    size = vod["VALUES"]
    assert seen[0, :, :size].abs().max() < 1e-6
    assert seen[0, :, size:].max() > 0.01
    assert seen[1, :, size:].abs().max() < 1e-6
    assert seen[1, :, :size].max() > 0.01


def write_curve(folder: Path) -> None:
    """Two domains, of which one has two categories; every reference of either kind is worth a little."""
    (folder / "settings.json").write_text(
        json.dumps({"backbone": "builtin", "models": ["head_free"], "domains": {"a": ["x", "y"], "b": ["z"]}})
    )
    for category, domain, base in (("x", "a", 0.5), ("y", "a", 0.7), ("z", "b", 0.4)):
        for n in (1, 2):
            for a in (0, 1):
                for seed in range(2):
                    value = base + 0.01 * n + 0.1 * a
                    cell = Cell("head_free", category, domain, n, a, seed, -1, "fixed")
                    write_cell(folder, cell, 9, dict.fromkeys(METRICS, value), 1.0)


def test_curves_of_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    (folder / "cells").mkdir(parents=True)
    write_curve(folder)
    arguments = [str(folder), "--picture", str(tmp_path / "c.png"), "--table", str(tmp_path / "c.csv")]
    arguments += ["--mean", str(tmp_path / "m.png")]
    monkeypatch.setattr(sys, "argv", ["curves.py", *arguments])
    runpy.run_path(str(EXAMPLES / "benchmarks/curves.py"), run_name="__main__")
    table = pd.read_csv(tmp_path / "c.csv").set_index(["n", "a"])
    assert table.loc[(1, 0), "image_AUROC"] == pytest.approx((0.6 + 0.4) / 2 + 0.01)  # domains weigh the same
    assert table.loc[(2, 1), "pixel_AP"] == pytest.approx(0.62)
    said = capsys.readouterr().out
    assert "0 -> 1 defective, 2 of the others +0.100 ± 0.000" in " ".join(said.split())
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("c.png", "m.png"))
