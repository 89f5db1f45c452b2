"""Compiling for a box: the folder for compiled graphs, and what is kept of shapes that were seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest

from anomalib_nagl.edge import EdgeError, NaglEdge, runtime
from anomalib_nagl.io.export_manifest import companion

DROPPED = """
import gc, signal, sys, threading
from anomalib_nagl.edge import NaglEdge

first, second, third = (NaglEdge(sys.argv[1]) for _ in range(3))
held = [third]
del third
thread = threading.Thread(target=held.clear)  # the last of one ends in another thread
thread.start()
thread.join()
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_cache_that_cannot_be_made_is_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file/cache"):
        with pytest.raises(
            EdgeError, match=r"cache folder that cannot be written: \S+file.* choose another cache, or none"
        ):
            NaglEdge(exported, cache=cache)


def test_a_cache_is_made_and_used(exported: Path, tmp_path: Path) -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    expected = NaglEdge(exported).predict(image).score
    for _ in range(2):
        found = NaglEdge(exported, cache=tmp_path / "new/cache").predict(image).score
        assert found == pytest.approx(expected, abs=1e-6)
    assert list((tmp_path / "new/cache").iterdir())


def test_a_wrong_device_is_still_named(exported: Path) -> None:
    with pytest.raises(EdgeError, match=r"device 'XYZ'.*expected one of CPU"):
        NaglEdge(exported, device="XYZ")


def test_openvino_may_do_without_the_number_of_shapes(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for where inputs come in many shapes, and is not a documented property."""
    image = np.full((50, 60, 3), 90, np.uint8)
    expected = NaglEdge(exported).predict(image).score
    graphs = [runtime.read_graph(ov.Core(), companion(exported, name)) for name in ("encoder", "scorer")]
    asked: list[dict[str, object]] = []
    core = SimpleNamespace(compile_model=lambda model, device, config: asked.append(config))
    for device, graph in (("CPU", graphs[0]), ("CPU", graphs[1]), ("GPU", graphs[1])):
        runtime.compile_graph(core, graph, device, {})
    assert asked == [{}, runtime.FEW_SHAPES, {}]
    monkeypatch.setattr(runtime, "FEW_SHAPES", {"NO_SUCH_PROPERTY": 1})
    assert NaglEdge(exported).predict(image).score == pytest.approx(expected, abs=1e-6)


def test_a_signal_is_heard_after_detectors_ended_in_any_order(exported: Path) -> None:
    """OpenVINO puts up a stack for signals, and takes it away with the last model of a core."""
    command = [sys.executable, "-c", DROPPED, str(exported)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr[-2000:]
