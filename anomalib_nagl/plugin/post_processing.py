"""The scale of scores, from the references or by anomalib's rule, and the thresholds on it: anomalib's sensitivities.

Without a threshold there is no label: anomalib's own post-processor hands out scores in its place, and an exported
graph of it compares with 0.5.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics.evaluator import Evaluator
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from torch import nn

from anomalib_nagl.bank.calibration import Calibration, doubt
from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.core.scale import shown

logger = logging.getLogger(__name__)
RULES = ("references", "f1_adaptive")


def parse_threshold(threshold: str | float) -> str | float:
    """Read ``references``, ``f1_adaptive`` or a number on the scale of scores; ValueError for anything else."""
    if threshold in RULES:
        return threshold
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise ValueError(
            f"found threshold={threshold!r}, expected one of {', '.join(RULES)}, or a number between 0 and 1 on the "
            "scale of scores, where 0.5 is the calibrated threshold"
        )
    return number


class Known(NamedTuple):
    """Whether images and pixels have a threshold."""

    image: bool
    pixel: bool


def known_thresholds(post_processor: nn.Module | None) -> Known:
    """Which thresholds a post-processor has, of this package or anomalib's own; none where it does not apply them.

    One that has no ``image_threshold`` and ``pixel_threshold`` says nothing of them: it is taken to have both. MEBin
    finds masks without a threshold of pixels.
    """
    if post_processor is None or not getattr(post_processor, "enable_thresholding", True):
        return Known(False, False)
    image, pixel = (getattr(post_processor, f"{name}_threshold", torch.zeros(())) for name in Known._fields)
    masks = isinstance(post_processor, MEBinPostProcessor) or not bool(torch.as_tensor(pixel).isnan())
    return Known(not bool(torch.as_tensor(image).isnan()), masks)


def post_process(post_processor: Any, predictions: InferenceBatch) -> InferenceBatch:
    """Predictions as they are shown; label and mask are None where there is no threshold."""
    if not post_processor:
        return predictions
    shown: InferenceBatch = post_processor(predictions)
    known = known_thresholds(post_processor)
    return shown._replace(
        pred_label=shown.pred_label if known.image else None, pred_mask=shown.pred_mask if known.pixel else None
    )


class ReferencePostProcessor(PostProcessor):
    """anomalib's post-processor with a scale that may come from references instead of labelled test images.

    Scores are shown on the scale of ``bank.scale``: 0.2 is ``image_min``, 0.5 the raw ``image_threshold``, 0.8
    ``image_max``, and likewise for pixels; none is cut off. The threshold that decides lies on that scale, as 1 -
    ``image_sensitivity`` and 1 - ``pixel_sensitivity`` do in anomalib. ``calibration`` are facts of the references.
    """

    def __init__(self, threshold: str | float = "references", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = parse_threshold(threshold)
        self.calibration: dict[str, Any] = {}
        if not isinstance(self.threshold, str):
            self.set_thresholds(image=self.threshold)

    @property
    def overlap(self) -> bool:
        """Whether the scores of references leave the threshold uncertain, see ``bank.calibration.Calibration``."""
        return bool(self.calibration.get("overlap"))

    @property
    def from_references(self) -> bool:
        """Whether labels of validation images are left alone."""
        return self.threshold != "f1_adaptive"

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "threshold", "calibration")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Collect scores and labels for anomalib's rule only."""
        if not self.from_references:
            super().on_validation_batch_end(*args, **kwargs)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Post-process a batch; metrics of labels or masks that no threshold makes are left out, which is said."""
        super().on_test_batch_end(trainer, pl_module, outputs, *args, **kwargs)
        missing = {name for name in ("pred_label", "pred_mask") if getattr(outputs, name, None) is None}
        metrics: Any = pl_module.evaluator.test_metrics if isinstance(pl_module.evaluator, Evaluator) else ()
        for metric in metrics if self.enable_thresholding else ():
            if metric.strict and missing & set(metric.fields):
                metric.strict = False
                logger.warning(
                    "Found no threshold, expected one for %s: it is left out; train with validation images, or set "
                    "a threshold.",
                    metric.name,
                )

    def threshold_batch(self, batch: Batch[Any]) -> None:
        """Set labels and masks of a batch, as far as there are thresholds."""
        given = batch.pred_label, batch.pred_mask
        super().threshold_batch(batch)
        known = known_thresholds(self)
        batch.pred_label = batch.pred_label if known.image else given[0]
        batch.pred_mask = batch.pred_mask if known.pixel else given[1]

    @property
    def normalized_image_threshold(self) -> torch.Tensor:
        """The threshold of images on the scale of scores, rounded once, as a box rounds it."""
        return torch.tensor(1.0 - self.image_sensitivity)

    @property
    def normalized_pixel_threshold(self) -> torch.Tensor:
        """The threshold of pixels on the scale of maps."""
        return torch.tensor(1.0 - self.pixel_sensitivity)

    @staticmethod
    def _normalize(
        preds: torch.Tensor | None, norm_min: torch.Tensor, norm_max: torch.Tensor, threshold: torch.Tensor
    ) -> torch.Tensor | None:
        return None if preds is None else shown(preds, norm_min, threshold, norm_max)

    def calibrate(self, found: Calibration) -> None:
        """Freeze the scale; where on it a decision is made stays."""
        for kind, raw in (("image", found.image), ("pixel", found.pixel)):
            getattr(self, f"{kind}_min").fill_(raw.raw_good)
            getattr(self, f"_{kind}_threshold").fill_(raw.raw_threshold)
            getattr(self, f"{kind}_max").fill_(raw.raw_defective)
        self.calibration = found.facts()

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """Which raw scores of images and of pixels are shown as 0.2, 0.5 and 0.8; NaN where that is not known."""
        image, pixel = (
            Scale(*(float(getattr(self, name)) for name in (f"{kind}_min", f"{kind}_threshold", f"{kind}_max")))
            for kind in ("image", "pixel")
        )
        return image, pixel

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Decide elsewhere on the scale, as 0.6; what is None stays.

        ValueError unless between 0 and 1. One that no reference's score reached, or all did, is questioned in the log.
        """
        for name, value, scale in zip(("image", "pixel"), (image, pixel), self.scales, strict=True):
            if value is not None:
                setattr(self, f"{name}_sensitivity", 1 - _on_scale(value))
                if doubted := doubt(f"{name}s", float(value), scale, self.calibration):
                    logger.warning("%s.", doubted.capitalize())


def _on_scale(value: float) -> float:
    if isinstance(parsed := parse_threshold(value), str):
        raise ValueError(f"found threshold={value!r}, expected a number between 0 and 1 on the scale of scores")
    return parsed
