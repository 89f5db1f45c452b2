"""Scoring images: batches of anomalib's engine, or single ones without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch
from torch import Tensor

from anomalib_nagl.core.model import ImageScores
from anomalib_nagl.core.reference_similarity import NearestReference, nearest_references
from anomalib_nagl.plugin.post_processing import post_process
from anomalib_nagl.references.images import as_image

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image (H, W).

    ``score`` is normalised so that 0.5 is the threshold, ``raw_score`` is as the model computed it. ``anomaly_map``
    (H, W) is normalised too; ``mask`` (H, W) is true where it exceeds the threshold. ``label`` and ``mask`` are None
    where no threshold was found. ``nearest_reference`` is the reference that the most anomalous patches resemble most.
    """

    score: float
    raw_score: float
    label: bool | None
    anomaly_map: Tensor
    mask: Tensor | None
    nearest_reference: NearestReference


@torch.no_grad()
def predict_image(nagl: Nagl, image: Any) -> Prediction:
    """Score an image: a path, a Pillow image, an array or a tensor, see ``references.images.as_image``.

    Raises RuntimeError when no references were set, ValueError when it is no image or its score is no number.
    """
    picture = as_image(image)
    batch = picture[None].to(nagl.device)
    tokens = nagl.model.encode(nagl.pre_processor(batch) if nagl.pre_processor else batch)
    score = nagl.model.score(tokens).score
    raw: Any = inference_batch(nagl.model.predictions(score))
    _check_finite(raw, [str(image)[:200] if isinstance(image, str | Path) else "the image"])
    post: Any = nagl.post_processor
    shown: Any = post_process(post, raw)
    size = (picture.shape[-2], picture.shape[-1])
    full_size = F.interpolate(shown.anomaly_map, size, mode="bilinear").cpu()[0, 0]
    nearest = nearest_references(nagl.model.similarity(tokens, score), nagl.references)
    return Prediction(
        score=float(shown.pred_score),
        raw_score=float(raw.pred_score),
        label=None if shown.pred_label is None else bool(shown.pred_label),
        anomaly_map=full_size,
        mask=None if shown.pred_mask is None else full_size > post.normalized_pixel_threshold.cpu(),
        nearest_reference=nearest[0],
    )


def predict_batch(nagl: Nagl, batch: Any) -> Any:
    """Score the images of a batch; ``nearest_reference`` of the result says which reference each resembles.

    The similarity to every reference, (B, n + a), is its ``reference_similarity``; ``explanation`` is its text.
    """
    tokens = nagl.model.encode(batch.image)
    score = nagl.model.score(tokens).score
    batch = batch.update(**nagl.model.predictions(score)._asdict())
    _check_finite(batch, batch.image_path)
    batch.reference_similarity = nagl.model.similarity(tokens, score)
    batch.reference_types = [record["defect_type"] for record in nagl.references]
    batch.nearest_reference = nearest_references(batch.reference_similarity, nagl.references)
    batch.explanation = [str(nearest) for nearest in batch.nearest_reference]
    return batch


def _check_finite(raw: Any, names: Sequence[str] | None) -> None:
    """Raise ValueError where a score or a map is no number: normalising it would make a good image of it."""
    finite = torch.isfinite(raw.pred_score).reshape(-1) & torch.isfinite(raw.anomaly_map).flatten(1).all(dim=1)
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0, 0])
    raise ValueError(
        f"found a score that is no number for {names[first] if names else 'an image'}, expected a finite one: compute "
        "in 32 bits, or load a head and references that are whole"
    )


def inference_batch(scores: ImageScores) -> InferenceBatch:
    """Scores and maps of the torch model as anomalib's own type."""
    return InferenceBatch(**scores._asdict())
