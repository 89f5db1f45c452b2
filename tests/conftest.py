"""Shared fixtures: a folder to work in that looks like a user's, and what is made once for all processes of a run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.environments import Environments
from support.once import once

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch anything
os.environ["MPLBACKEND"] = "Agg"
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # "gw0", "gw1", ...; None in a run of one process
if WORKER:
    # A core for each process; torch, which nothing has imported yet, and every program of a test take it from here.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have most slow tests: none of them is left to run alone at the end."""
    slow: dict[Path, int] = {}
    for item in items:
        slow[item.path] = slow.get(item.path, 0) - (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: slow[item.path])


@pytest.fixture(autouse=True)
def signals_on_the_stack_of_their_thread() -> Iterator[None]:
    """Tests end OpenVINO's models in any order; the next signal would find the stack gone that these had put up."""
    from anomalib_nagl.io.signal_stack import leave_signal_stack

    yield
    if "openvino" in sys.modules:
        leave_signal_stack()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole run, the same in all its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if WORKER else base


@pytest.fixture(scope="module")
def real_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real images and weights where the configs look; skips when they are not there."""
    from support.real_images import lay_out, skip_without, thinned

    skip_without()
    folder = tmp_path_factory.mktemp("real")
    lay_out(folder, once(run_folder / "real_small", thinned))
    return folder


@pytest.fixture(scope="session")
def drawn(run_folder: Path) -> Path:
    """All drawn images, once for the whole run."""
    from anomalib_nagl.rendered.render import CATEGORIES, render_category

    root = run_folder / "drawn"
    # Who asks for a category that another process is drawing waits; the two halves begin at either end.
    for category in CATEGORIES if WORKER in (None, "gw0") else reversed(CATEGORIES):
        render_category(root, category, 0)
    return root


@pytest.fixture(scope="session")
def environments(run_folder: Path) -> Environments:
    """Throw-away virtual environments with one of our distributions in them, and their wheels."""
    return Environments(run_folder)


@pytest.fixture(scope="session")
def edge_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small transformer with random weights and two references; tests set others."""
    from support.exported import backbone, make_model

    return make_model(backbone("vit", tmp_path_factory.mktemp("backbone")), (224, 224))


@pytest.fixture(scope="session")
def exported_once(edge_model: Any, run_folder: Path) -> Path:
    """It as OpenVINO file, with one normal and one abnormal reference; to be read alone."""
    from support.exported import reference_set

    edge_model.set_references(reference_set(1, 1))
    return once(run_folder / "exported", edge_model.to_openvino) / "weights/openvino/model.xml"


@pytest.fixture
def exported(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the exported folder that may be taught, or spoilt."""
    folder = tmp_path_factory.mktemp("box") / "openvino"
    shutil.copytree(exported_once.parent, folder)
    return folder / "model.xml"


@pytest.fixture
def box(exported: Path) -> Path:
    """Another name of it."""
    return exported
