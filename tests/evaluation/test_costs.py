"""What models cost: a row for each, measured in a process of its own."""

from __future__ import annotations

import csv

import pytest
from support.exported import backbone

from anomalib_nagl.evaluation import costs
from anomalib_nagl.evaluation.costs import COLUMNS, write_costs
from anomalib_nagl.evaluation.settings import Settings

PATCHES, WIDTH = 4 * 4, 256  # of stride 16 at 64 pixels


@pytest.fixture
def settings(drawn, tmp_path):
    return Settings(
        data=str(drawn),
        format="DrawnPictures",
        domains={"parts": ["plate"], "textures": ["cloth"]},
        models=["nagl", "normal_only", "anomaly_dino"],
        backbone=backbone("cnn", tmp_path),
        image_size=64,
        out=str(tmp_path / "out"),
    )


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        ("normal_only", PATCHES * WIDTH),
        ("naive", PATCHES * WIDTH),  # its bank, and the few marked patches
        ("patchcore", int(0.1 * PATCHES) * WIDTH),
        ("padim", PATCHES * (100 + 100 * 100)),
    ],
)
def test_measured(model, numbers, settings):
    found = costs._measure(settings, None, model)
    assert float(found["state_mb"]) == pytest.approx(4e-6 * numbers, rel=0.3, abs=0.006)
    assert 0 < float(found["ms_median"]) <= float(found["ms_p95"])
    assert float(found["of_encoder"]) > 0  # times are not tested: this machine may be busy
    assert float(found["s_references"]) > 0
    assert ("2 normal references" in found["reason"]) == (model == "padim")


@pytest.mark.slow
def test_file_has_every_model(settings, tmp_path):
    told = []
    path = write_costs(settings, tmp_path / "absent.ckpt", told.append)
    assert told == settings.models
    with path.open(newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == COLUMNS
    assert [rows[model]["status"] for model in settings.models] == ["failed", "done", "not run"]
    assert "absent.ckpt" in rows["nagl"]["reason"]
    assert "offline mode is set" in rows["anomaly_dino"]["reason"]
    assert 1 < float(rows["normal_only"]["peak_mb"]) < 2000
    assert not rows["nagl"]["ms_median"]


def test_peak_memory_grows_with_what_is_used():
    before = costs.peak_memory()
    block = bytearray(400 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert costs.peak_memory() >= before
    assert costs.peak_memory() > 400 * 2**20
