"""Thresholds from the references, by anomalib's rule, or a number: always the pair in anomalib's post-processor.

Without a threshold there is no label: anomalib's own post-processor hands out scores in its place, and an exported
graph of it compares with 0.5.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics.evaluator import Evaluator
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from torch import nn

from anomalib_nagl.bank.calibration import Calibration

logger = logging.getLogger(__name__)
RULES = ("references", "f1_adaptive")


def parse_threshold(threshold: str | float) -> str | float:
    """Read ``references``, ``f1_adaptive`` or a raw image score; ValueError for anything else."""
    if threshold in RULES:
        return threshold
    try:
        return float(threshold)
    except ValueError as error:
        raise ValueError(
            f"found threshold={threshold!r}, expected one of {', '.join(RULES)}, or a number (a raw image score)"
        ) from error


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
    """anomalib's post-processor with thresholds that may come from references instead of labelled test images.

    Scores are normalised by fixed numbers, never by the images that are scored: 0.5 is the threshold, and
    ``raw = (score - 0.5) * (max - min) + threshold`` gives the raw score back.
    """

    def __init__(self, threshold: str | float = "references", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = parse_threshold(threshold)
        self.overlap = False  # of the scores of references, see ``calibration.Calibration``

    @property
    def from_references(self) -> bool:
        """Whether labels of validation images are left alone."""
        return self.threshold != "f1_adaptive"

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "threshold")

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

    def calibrate(self, found: Calibration) -> None:
        """Set thresholds and the range of scores that is shown as 0 to 1."""
        image = found.image if isinstance(self.threshold, str) else self.threshold
        self.overlap = found.overlap
        self.set_threshold(image, found.pixel)
        self.image_min.fill_(image - found.image_width)
        self.image_max.fill_(image + found.image_width)
        self.pixel_min.fill_(found.pixel - found.pixel_width)
        self.pixel_max.fill_(found.pixel + found.pixel_width)

    def set_threshold(self, image: float | None = None, pixel: float | None = None) -> None:
        """Change the raw thresholds; ranges keep their width. What is None stays."""
        for buffer, value in ((self._image_threshold, image), (self._pixel_threshold, pixel)):
            if value is not None:
                buffer.fill_(value)
