"""Scoring images: batches of anomalib's engine, or single ones without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from anomalib.data import InferenceBatch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.core.model import ImageScores
from anomalib_nagl.core.reference_similarity import nearest_references
from anomalib_nagl.io.arrays import eight_bit
from anomalib_nagl.io.prediction_table import PredictionRow
from anomalib_nagl.plugin.defect_types import with_types
from anomalib_nagl.plugin.post_processing import known_thresholds, post_process
from anomalib_nagl.references.images import as_image, load_image, read_header

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image (H, W).

    ``score`` is normalised so that 0.5 is the threshold, ``raw_score`` is as the model computed it. ``anomaly_map``
    (H, W) is normalised too; ``mask`` (H, W) is true where it exceeds the threshold. ``label`` and ``mask`` are None
    where no threshold was found. ``nearest_reference`` is the reference that the most anomalous patches resemble most,
    its ``found_type`` the known type of defect that they do.
    """

    score: float
    raw_score: float
    label: bool | None
    anomaly_map: Tensor
    mask: Tensor | None
    nearest_reference: NearestReference


class ScoredImage(NamedTuple):
    """An image of ``size`` (height, width) scored: as the model computed it, as it is shown, and what it is like."""

    size: tuple[int, int]
    raw: Any
    shown: Any
    nearest: NearestReference


@torch.no_grad()
def score_image(nagl: Nagl, image: Any) -> ScoredImage:
    """Score an image, maps at the size of the network input; see ``predict_image`` for what it takes and raises."""
    picture = as_image(image)
    batch = picture[None].to(nagl.device)
    tokens = nagl.model.encode(nagl.pre_processor(batch) if nagl.pre_processor else batch)
    score = nagl.model.score(tokens).score
    raw = inference_batch(nagl.model.predictions(score))
    _check_finite(raw, [str(image)[:200] if isinstance(image, str | Path) else "the image"])
    nearest = with_types(nagl, nearest_references(nagl.model.similarity(tokens, score), nagl.references), tokens, score)
    size = picture.shape[-2], picture.shape[-1]
    return ScoredImage(size, raw, post_process(nagl.post_processor, raw), nearest[0])


@torch.no_grad()
def predict_image(nagl: Nagl, image: Any) -> Prediction:
    """Score an image: a path, a Pillow image, an array or a tensor, see ``references.images.as_image``.

    Raises RuntimeError when no references were set, ValueError when it is no image or its score is no number.
    """
    size, raw, shown, nearest = score_image(nagl, image)
    full_size = F.interpolate(shown.anomaly_map, size, mode="bilinear").cpu()[0, 0]
    post: Any = nagl.post_processor
    return Prediction(
        score=float(shown.pred_score),
        raw_score=float(raw.pred_score),
        label=None if shown.pred_label is None else bool(shown.pred_label),
        anomaly_map=full_size,
        mask=None if shown.pred_mask is None else full_size > post.normalized_pixel_threshold.cpu(),
        nearest_reference=nearest,
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
    nearest = nearest_references(batch.reference_similarity, nagl.references)
    batch.nearest_reference = with_types(nagl, nearest, tokens, score)
    batch.explanation = [str(nearest) for nearest in batch.nearest_reference]
    return batch


def decision_thresholds(post_processor: nn.Module | None) -> tuple[float | None, float | None]:
    """Thresholds of images and pixels on the scale of what a post-processor shows; None where there is none."""
    known, post = known_thresholds(post_processor), post_processor
    scale = "normalized_" if getattr(post, "enable_normalization", True) else ""
    image, pixel = (
        float(getattr(post, f"{scale}{name}_threshold", 0.5)) if has else None
        for name, has in zip(known._fields, known, strict=True)
    )
    return image, pixel


def batch_rows(batch: Any, post_processor: nn.Module | None) -> tuple[Rules, list[PredictionRow]]:
    """The rows of a batch that was scored and post-processed, and the rules by which their verdicts were found."""
    rules = Rules(*decision_thresholds(post_processor))
    nearest = getattr(batch, "nearest_reference", None)  # a batch of another model has none
    rows = []
    for i in range(len(batch)):
        values = batch.anomaly_map[i].float().cpu().numpy().reshape(batch.anomaly_map.shape[-2:])
        path = str(batch.image_path[i]) if batch.image_path else ""
        size = read_header(path).upright[::-1] if path else batch.image.shape[-2:]
        found = Found(float(batch.pred_score[i]), values, nearest[i] if nearest else None)
        rows.append(judge(path, found, (int(size[0]), int(size[1])), rules))
    return rules, rows


def pixels_of(batch: Any, index: int) -> NDArray[np.uint8]:
    """An image of a batch to show (H, W, 3): its file or, where there is none, what was scored."""
    path = str(batch.image_path[index]) if batch.image_path else ""
    image = load_image(path) if path else batch.image[index].float().cpu().clamp(0, 1)
    return eight_bit(image.numpy()).transpose(1, 2, 0)


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
