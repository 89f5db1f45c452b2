"""Thresholds from the references, by anomalib's rule, or a number: always the pair in anomalib's post-processor."""

from __future__ import annotations

from typing import Any

from anomalib.post_processing import PostProcessor

from anomalib_nagl.bank.calibration import Calibration

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


class ReferencePostProcessor(PostProcessor):
    """anomalib's post-processor with thresholds that may come from references instead of labelled test images.

    Scores are normalised by fixed numbers, never by the images that are scored: 0.5 is the threshold, and
    ``raw = (score - 0.5) * (max - min) + threshold`` gives the raw score back.
    """

    def __init__(self, threshold: str | float = "references", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = parse_threshold(threshold)

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

    def calibrate(self, found: Calibration) -> None:
        """Set thresholds and the range of scores that is shown as 0 to 1."""
        image = found.image if isinstance(self.threshold, str) else self.threshold
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
