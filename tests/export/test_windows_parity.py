"""Large images of unusual shapes in real windows: torch, anomalib's inferencer and the box say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer

from anomalib_nagl import Nagl, NaglEdge
from anomalib_nagl.references.reference_set import ReferenceSet

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
Size = tuple[int, int]


def picture(size: Size, seed: int, spot: bool = False) -> np.ndarray:
    """A texture (H, W, 3) of 8 bits, with a white square of 40 pixels or without."""
    coarse = torch.rand(1, 3, size[0] // 8 + 2, size[1] // 8 + 2, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]
    if spot:
        image[:, size[0] // 2 : size[0] // 2 + 40, size[1] // 2 : size[1] // 2 + 40] = 1
    return (255 * image).round().byte().permute(1, 2, 0).contiguous().numpy()


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def make(size: Size) -> Nagl:
    """A model with windows of 448 pixels, an overview, and one reference of each kind."""
    mask = torch.zeros(size)
    mask[size[0] // 2 : size[0] // 2 + 40, size[1] // 2 : size[1] // 2 + 40] = 1
    model = Nagl(
        backbone="builtin", variant="discriminant", window=448, overlap=64, bank_limit=256, views="none"
    ).eval()
    model.set_references(ReferenceSet([as_tensor(picture(size, 1))], [as_tensor(picture(size, 2, True))], [mask]))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "windows"), [((500, 1260), 8), ((1130, 460), 6), ((300, 7000), 19)], ids=["wide", "tall", "strip"]
)
def test_every_runtime_says_the_same(tmp_path: Path, size: Size, windows: int) -> None:
    model = make(size)
    assert len(model.model.encoder.plan.corners) == windows
    path = model.to_openvino(tmp_path)
    inferencer, detector = OpenVINOInferencer(path=path, device="CPU", config=EXACT), NaglEdge(path)
    verdicts = []
    for spot in (False, True):
        image = picture(size, 3, spot)
        with torch.inference_mode():
            wanted = model(as_tensor(image)[None])
        score, label, wanted_map = float(wanted.pred_score), bool(wanted.pred_label), wanted.anomaly_map[0, 0].numpy()
        found, boxed = inferencer.predict(image), detector.predict(image)
        # Scores lie between 0 and 1: half a percent of that.
        assert float(found.pred_score.reshape(())) == pytest.approx(score, abs=0.005)
        assert boxed.score == pytest.approx(score, abs=0.005)
        assert (bool(found.pred_label.reshape(())), boxed.label) == (label, label)
        np.testing.assert_allclose(found.anomaly_map.squeeze(), wanted_map, atol=0.005)
        np.testing.assert_allclose(boxed.map, wanted_map, atol=0.005)
        verdicts.append(label)
    assert verdicts == [False, True]
