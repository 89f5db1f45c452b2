"""The wish of a layer for f32 in an OpenVINO file."""

from __future__ import annotations

from pathlib import Path

import openvino as ov
from openvino import opset13 as ops

from anomalib_nagl.io.precise_layers import mark_precise, precise_layers


def test_a_wish_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    image = ops.parameter([2, 2], name="image")
    product = ops.matmul(image, ops.constant([[1.0, 2.0], [3.0, 4.0]], dtype="float32"), False, False, name="product")
    ov.save_model(ov.Model([ops.result(product)], [image], "model"), path)
    assert precise_layers(path) == set()
    for _ in range(2):  # as where a release keeps wishes when it writes a graph again
        mark_precise(path, ["product", "image"])
        assert precise_layers(path) == {"product"}
        assert path.read_text().count('name="precise"') == 1
        ov.Core().compile_model(path, "CPU")
