"""A fusion rule with a reference tensor of its own, through torch, an exported file and the box."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exported import PICTURE, defect_mask, picture, pixels, reference_set
from torch import Tensor

from anomalib_nagl import Nagl, NaglEdge
from anomalib_nagl.bank import adapted
from anomalib_nagl.bank.adapted import ReferencePatches, ReferenceTensor
from anomalib_nagl.bank.pools import heads
from anomalib_nagl.core.fusion import Fused, Similarities, WeightedFusion


def defect_direction(patches: ReferencePatches) -> np.ndarray:
    """From the mean normal to the mean abnormal patch (C,); zero without either."""
    abnormal = heads([one.marked for one in patches.abnormal], None, patches.width)
    if not len(abnormal) or not patches.normal:
        return np.zeros(patches.width, np.float32)
    return abnormal.mean(axis=0) - heads(patches.normal, None, patches.width).mean(axis=0)


class DirectionFusion:
    """Half the usual score, half how far a patch lies in the direction of the defects."""

    def __call__(self, query: Tensor, found: Similarities, state: Mapping[str, Tensor]) -> Fused:
        usual = WeightedFusion()(query, found, state)
        along = torch.sigmoid((query @ state["defect_direction"][..., None]).squeeze(-1))
        return Fused(usual.abnormal, (usual.score + along) / 2)


@pytest.fixture
def direction() -> Iterator[None]:
    tensor = ReferenceTensor("defect_direction", lambda sizes: (sizes.width,), defect_direction)
    adapted.TENSORS.append(tensor)
    yield
    adapted.TENSORS.remove(tensor)


@pytest.mark.slow
def test_a_new_rule_with_a_new_tensor_works_everywhere(direction: None, tmp_path: Path) -> None:
    model = Nagl(backbone="gabor", image_size=64, post_processor=False).eval()
    usual = Nagl(backbone="gabor", image_size=64, post_processor=False).eval()
    model.model.head.fusion = DirectionFusion()
    for nagl in (model, usual):
        nagl.head_trained = True
        nagl.set_references(reference_set(1, 1))
    image = picture(PICTURE, 41, defect=True)
    expected = float(model(image[None]).pred_score)
    assert abs(expected - float(usual(image[None]).pred_score)) > 1e-3
    detector = NaglEdge(model.to_openvino(tmp_path))
    assert detector.predict(pixels(image)).score == pytest.approx(expected, abs=1e-5)
    # What is taught on the box changes the new tensor as it does in torch.
    lesson, mask = picture(PICTURE, 21, defect=True), defect_mask(PICTURE, 21)
    detector.add_abnormal(pixels(lesson), mask.numpy(), name="abnormal 1")
    model.set_references(reference_set(1, 2))
    assert detector.predict(pixels(image)).score == pytest.approx(float(model(image[None]).pred_score), abs=1e-5)


def test_a_fusion_needs_something_to_fuse() -> None:
    with pytest.raises(ValueError, match="no abnormal similarity"):
        WeightedFusion()(torch.zeros(1, 2, 3), Similarities(torch.zeros(1, 2), None, None), {})
