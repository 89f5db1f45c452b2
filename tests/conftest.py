"""Shared fixtures: a folder to work in that looks like a user's, and small drawn pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.goldens import SHARED

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch anything
os.environ["MPLBACKEND"] = "Agg"

REAL = {"datasets/real_small": "data/real_small", "weights/mobilenetv2_100_tfsame": "weights/mobilenetv2_100_tfsame"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the real pictures and weights where the configs look; skips when they are not there."""
    path = tmp_path_factory.mktemp("real")
    for place, source in REAL.items():
        if not (SHARED / source).is_dir():
            pytest.skip(f"{SHARED / source} not found: set NAGL_SHARED to the folder that holds {source}")
        (path / place).parent.mkdir(exist_ok=True)
        (path / place).symlink_to(SHARED / source, target_is_directory=True)
    before = Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All drawn pictures, once for the whole run."""
    from anomalib_nagl.rendered.render import CATEGORIES, render_category

    root = tmp_path_factory.mktemp("drawn")
    for category in CATEGORIES:
        render_category(root, category, 0)
    return root


@pytest.fixture(scope="session")
def edge_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small transformer with random weights; tests set its references."""
    from support.exported import backbone, make_model

    return make_model(backbone("vit", tmp_path_factory.mktemp("backbone")), (224, 224))


@pytest.fixture(scope="session")
def exported(edge_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as OpenVINO file, with one normal and one abnormal reference."""
    from support.exported import reference_set

    edge_model.set_references(reference_set(1, 1))
    return edge_model.to_openvino(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def box(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that may be spoilt."""
    shutil.copytree(exported.parent, tmp_path / "box")
    return tmp_path / "box/model.xml"
