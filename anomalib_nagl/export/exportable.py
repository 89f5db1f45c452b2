"""What a model hands over to be exported; whoever wraps ``NaglModel`` (the anomalib plugin, a program) fills it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anomalib_nagl.bank.adapted import TENSORS
from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.resizing import MatrixResize

# Outputs: image scores (B,), labels (B,), maps (B, 1, H, W), masks (B, 1, H, W).
Outputs = dict[str, Tensor]
Finish = Callable[[Tensor, Tensor, Tensor, Tensor], Outputs]


@dataclass(frozen=True)
class Exportable:
    """A model with its references and all that belongs into an exported file.

    ``prepare`` brings images (B, 3, H, W) in [0, 1] of any size to the network input, after ``resize`` where that is a
    step of its own: the box takes it outside the graph. ``finish`` makes the outputs
    named ``outputs`` of image scores, anomaly maps, the ``thresholds`` (2,) of images and pixels and the ``scales``
    (2, 3) that these lie on, each pixel by itself if ``pixelwise``; ``calibration`` says how these were found.
    ``entries`` are facts of each reference
    (``ReferenceImage.record``), ``record`` says how they were chosen. Raises
    RuntimeError for a model without references, ValueError for one whose head has operations that graphs lack.
    """

    model: NaglModel
    prepare: nn.Module
    resize: MatrixResize | None
    finish: Finish
    outputs: tuple[str, ...]
    thresholds: tuple[float, float]
    scales: tuple[Scale, Scale]
    variant: str
    head_trained: bool
    pixelwise: bool = False
    calibration: dict[str, Any] = field(default_factory=dict)
    bank_limit: int | None = None
    entries: list[dict[str, str]] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a model that has nothing to compare with, or that no graph computes."""
        if self.model.head.variant.eraser:
            raise ValueError(
                f"found variant {self.variant!r}, whose eraser finds principal axes for every patch, expected one "
                "without the eraser: exported graphs have no such operation, train a head of another variant"
            )
        if not self.model.has_references:
            raise RuntimeError(
                "found a model without references, expected some before it is exported: run `anomalib train`, then "
                "export its checkpoint with --ckpt_path"
            )

    def reference_tensors(self) -> dict[str, Tensor]:
        """What exported graphs are given beside an image: the adapted state, scales and thresholds, on the CPU."""
        state = {tensor.name: self.model.state[tensor.name].detach().cpu() for tensor in TENSORS}
        return {**state, "thresholds": torch.tensor(self.thresholds), "scale": torch.tensor(self.scales)}
