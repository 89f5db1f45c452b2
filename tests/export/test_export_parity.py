"""The exported file gives torch's answer, for every kind of backbone and size; alone and in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from support.exported import SIZES, assert_same, backbone, by_openvino, by_torch, make_model, picture

from anomalib_nagl import Nagl

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
BATCH = 4


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Batches of images of each size, drawn once; every second one has a defect."""
    sizes = {name: size for name, size in SIZES.items() if size}
    return {
        name: torch.stack([picture(size, 30 + i, i % 2 == 1) for i in range(BATCH)]) for name, size in sizes.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [(448, 448), (448, 672), (224, 224)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("kind", ["vit", "cnn", "builtin", "gabor"])
def test_openvino_matrix(
    kind: str,
    size: tuple[int, int],
    inputs: dict[str, torch.Tensor],
    tmp_path: Path,
    record_property: pytest.RecordProperty,
) -> None:
    model = make_model(backbone(kind, tmp_path), size)
    equal = torch.stack([picture(size, 30 + i, i % 2 == 1) for i in range(BATCH)])
    part_by_mean(model, equal)
    compiled = ov.Core().compile_model(model.to_openvino(tmp_path), "CPU", F32)
    labels = set()
    for name, images in {"input": equal, **inputs}.items():
        together, alone = by_openvino(compiled, images), by_openvino(compiled, images[:1])
        expected = by_torch(model, images)
        assert_same(together, expected)
        assert_same(alone, by_torch(model, images[:1]))
        # The size of the batch never changes a score.
        assert np.abs(together.score[:1] - alone.score).max() <= 1e-5, name
        assert np.abs(together.map[:1] - alone.map).max() <= 1e-4, name
        labels |= set(expected.label.tolist())
        record_property(name, f"{np.abs(together.score - expected.score).max():.1e}")
    assert expected.map.std() > 0.01
    assert labels == {True, False}


@torch.inference_mode()
def part_by_mean(model: Nagl, images: torch.Tensor) -> None:
    """Set the threshold of images to the mean score of some, so that there are labels of both kinds."""
    raw = model.model(model.pre_processor(images))
    model.post_processor._image_threshold.fill_(raw.pred_score.mean())
