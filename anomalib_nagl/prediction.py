"""Scoring single pictures without anomalib's engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from anomalib_nagl.pictures import as_image


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture (H, W).

    ``score`` is normalised so that 0.5 is the threshold, ``raw_score`` is as the model computed it. ``anomaly_map``
    (H, W) is normalised too; ``mask`` (H, W) is true where it exceeds the threshold. Without a threshold, ``label`` and
    ``mask`` are None.
    """

    score: float
    raw_score: float
    label: bool | None
    anomaly_map: Tensor
    mask: Tensor | None


class Predicting(LightningModule):
    """The part of ``Nagl`` that scores single pictures."""

    model: Any
    pre_processor: Any
    post_processor: Any

    @torch.no_grad()
    def predict(self, image: Any) -> Prediction:
        """Score a picture: a path, a Pillow picture, an array or a tensor, see ``pictures.as_image``.

        Raises RuntimeError when no references were set, ValueError when it is no picture.
        """
        picture = as_image(image)
        training = self.training
        self.eval()
        try:
            batch = picture[None].to(self.device)
            prepared = self.pre_processor(batch) if self.pre_processor else batch
            raw = self.model(prepared)
            found = self.post_processor(raw) if self.post_processor else raw
        finally:
            self.train(training)
        size = (picture.shape[-2], picture.shape[-1])
        whole = F.interpolate(found.anomaly_map, size, mode="bilinear").cpu()[0, 0]
        labelled = found.pred_label is not None and not bool(self.post_processor.image_threshold.isnan())
        return Prediction(
            score=float(found.pred_score),
            raw_score=float(raw.pred_score),
            label=bool(found.pred_label) if labelled else None,
            anomaly_map=whole,
            mask=whole > self.post_processor.normalized_pixel_threshold if labelled else None,
        )
