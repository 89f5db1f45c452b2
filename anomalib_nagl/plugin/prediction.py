"""Scoring single pictures without anomalib's engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch
from anomalib.data.utils import LabelName
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.reference_similarity import NearestReference, nearest_references
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.plugin.defect_type_report import TypeResults
from anomalib_nagl.references.images import as_image


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture (H, W).

    ``score`` is normalised so that 0.5 is the threshold, ``raw_score`` is as the model computed it. ``anomaly_map``
    (H, W) is normalised too; ``mask`` (H, W) is true where it exceeds the threshold. Without a threshold, ``label`` and
    ``mask`` are None. ``nearest_reference`` is the reference that the most anomalous patches resemble most.
    """

    score: float
    raw_score: float
    label: bool | None
    anomaly_map: Tensor
    mask: Tensor | None
    nearest_reference: NearestReference


class Scoring(LightningModule):
    """The part of ``Nagl`` that scores pictures: batches of the engine, or single ones."""

    model: NaglModel
    pre_processor: Any
    post_processor: Any
    references: list[dict[str, str]]
    _type_results: TypeResults | None

    @torch.no_grad()
    def predict(self, image: Any) -> Prediction:
        """Score a picture: a path, a Pillow picture, an array or a tensor, see ``pictures.as_image``.

        Raises RuntimeError when no references were set, ValueError when it is no picture.
        """
        picture = as_image(image)
        batch = picture[None].to(self.device)
        tokens = self.model.encode(self.pre_processor(batch) if self.pre_processor else batch)
        score = self.model.score(tokens).score
        raw: Any = InferenceBatch(**self.model.predictions(score)._asdict())
        found = self.post_processor(raw) if self.post_processor else raw
        size = (picture.shape[-2], picture.shape[-1])
        whole = F.interpolate(found.anomaly_map, size, mode="bilinear").cpu()[0, 0]
        labelled = found.pred_label is not None and not bool(self.post_processor.image_threshold.isnan())
        nearest = nearest_references(self.model.similarity(tokens, score), self.references)
        return Prediction(
            score=float(found.pred_score),
            raw_score=float(raw.pred_score),
            label=bool(found.pred_label) if labelled else None,
            anomaly_map=whole,
            mask=whole > self.post_processor.normalized_pixel_threshold.cpu() if labelled else None,
            nearest_reference=nearest[0],
        )

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Score a batch; ``nearest_reference`` of the result says for each picture which reference it resembles.

        The similarity to every reference, (B, n + a), is its ``reference_similarity``; ``explanation`` is for people.
        """
        del batch_idx, dataloader_idx
        tokens = self.model.encode(batch.image)
        score = self.model.score(tokens).score
        batch = batch.update(**self.model.predictions(score)._asdict())
        batch.reference_similarity = self.model.similarity(tokens, score)
        batch.nearest_reference = nearest_references(batch.reference_similarity, self.references)
        batch.explanation = [str(found) for found in batch.nearest_reference]
        return batch

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Score a batch, and keep its raw scores for the results of each defect type."""
        del args, kwargs
        found: Any = self.predict_step(batch, batch_idx)
        if self._type_results is not None and found.gt_label is not None:
            self._type_results.update(
                found.image_path, found.gt_label, found.pred_score, found.anomaly_map, found.gt_mask
            )
        return found

    def on_test_epoch_start(self) -> None:
        """Look up the defect type of every test picture; with several processes each has but a part of them."""
        data = getattr(getattr(self.trainer, "datamodule", None), "test_data", None)
        alone = self.trainer.world_size == 1
        types = {s.image: s.defect_type for s in samples(data, LabelName.ABNORMAL)} if data is not None else {}
        self._type_results = TypeResults(types) if alone and types else None

    def on_test_epoch_end(self) -> None:
        """Print results for each defect type, and write them into the folder of this run."""
        if self._type_results is not None:
            self._type_results.report(self.trainer.default_root_dir)
            self._type_results = None
