"""Resizing without torch is torch's own, and a graph is given one size whatever images come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from support.exported import picture, pixels

from anomalib_nagl.core.resizing import MatrixResize
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.resizing import bands, resize
from anomalib_nagl.edge.runtime import Images, read_graph
from anomalib_nagl.io.export_manifest import companion

SIZES = [(300, 200), (41, 37), (96, 96), (97, 95), (1, 1), (2, 900), (130, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(96, 96), (64, 144), (1, 70)])
def test_as_in_torch(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(size, 3)
    expected = MatrixResize(target)(image[None])[0].numpy()
    found = resize(image.numpy(), target, rounded=False)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 2e-6
    rounded = resize(image.numpy(), target, rounded=True)
    off = np.abs(rounded - MatrixResize(target, rounded=True)(image[None])[0].numpy())
    assert off.max() <= 1.001 / 255  # where sums in another order fall on the other side of a half
    assert (off > 1e-6).mean() < 0.02


@pytest.mark.parametrize(("source", "target"), [(1200, 448), (37, 448), (448, 448), (1, 96), (5000, 96)])
def test_bands_leave_out_zeros_only(source: int, target: int) -> None:
    row = np.random.default_rng(0).random((3, 1, source)).astype(np.float32)
    whole = MatrixResize((1, target))(torch.from_numpy(row)[None])[0].numpy()
    assert np.abs(resize(row, (1, target), rounded=False) - whole).max() < 2e-6
    assert [(band.first, band.last) for band in bands(source, target)][-1][1] == target
    assert sum(band.weights.size for band in bands(source, target)) <= target * (source + 8)


def test_the_encoder_of_a_box_has_one_size(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing that OpenVINO keeps of a shape can pile up; it is the size that the graph itself names."""
    graph = read_graph(ov.Core(), companion(exported, "encoder"))
    assert Images.of(graph) == Images((224, 224), rounded=False)
    assert str(graph.input("image").partial_shape) == "[?,3,224,224]"
    detector, seen = NaglEdge(exported), set()
    prepared = Images.prepared

    def watched(self: Images, image: ov.Tensor) -> ov.Tensor:
        seen.add(tuple((found := prepared(self, image)).shape))
        return found

    monkeypatch.setattr(Images, "prepared", watched)
    drawn = [pixels(picture((60 + 7 * i, 150 - 5 * i), i)) for i in range(8)]
    for image in drawn:
        detector.predict(image)
    list(detector.predict_all(drawn))
    detector.add_normal(drawn[0])
    assert seen == {(1, 3, 224, 224)}
