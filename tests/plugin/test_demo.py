"""What `make demo` shows, on pictures of other seeds than its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, zoom
from support.commands import CONFIGS

PATCH = 12  # pixels of a drawn picture, of 192: one of 16 cells


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    found = importlib.util.spec_from_file_location("quickstart", CONFIGS.parent / "examples/quickstart.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_defects_that_are_shown_are_found(
    demo: ModuleType, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    without, shown = demo.compare(seed).transpose(1, 0, 2)
    assert ((shown - without).mean(axis=0) >= 0.03).all()  # AUROC of images and of pixels
    assert (shown >= without).all()  # of every part
    part = demo.PARTS[-1]
    inspected = demo.inspect(part, demo.export(part, seed))
    assert [one.row.verdict for one in inspected] == ["defective"] * 3 + ["good"]
    for one in inspected[:3]:
        values = zoom(one.map, np.divide(one.truth.shape, one.map.shape), order=1)
        brightest = np.unravel_index(values.argmax(), values.shape)
        assert binary_dilation(one.truth, iterations=PATCH)[brightest], one.row.image
        outlined = values > 0.5
        assert outlined[one.truth.astype(bool)].mean() > 0.5, one.row.image
    picture = demo.picture(part, inspected)
    assert picture.height > 4 * 420
