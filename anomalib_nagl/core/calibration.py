"""Thresholds of a model in torch, by the rules of ``bank.calibration``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_nagl.bank import calibration
from anomalib_nagl.bank.calibration import Calibration
from anomalib_nagl.bank.held_out import Detector, State
from anomalib_nagl.bank.maps import anomaly_map
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.state import AdaptedState, ReferenceTokens, as_array

Floats = NDArray[np.float32]


def detector_of(model: NaglModel, like: Tensor) -> Detector:
    """The head, on the device and with the precision of the tokens ``like``, and the maps of a model."""
    down, right = as_array(model.smooth_down), as_array(model.smooth_right)

    def score(tokens: Floats, state: State) -> Floats:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array))[None].to(like) for name, array in state.items()}
        return as_array(model.head.score(torch.from_numpy(tokens).to(like), tensors, model.encoder.grid).score)

    return Detector(score, lambda scores: anomaly_map(scores, down, right), model.encoder.window_cells)


@torch.no_grad()
def calibrate(
    model: NaglModel, tokens: ReferenceTokens, limit: int | None = None, state: AdaptedState | None = None
) -> Calibration:
    """Scales for images and pixels from the references alone; ``state`` is what was made of them already."""
    tensors = (state or model.adapt(tokens, limit)).tensors
    arrays = {name: as_array(tensor) for name, tensor in tensors.items()}
    return calibration.calibrate(model.patches(tokens, limit), arrays, detector_of(model, tokens.normal))
