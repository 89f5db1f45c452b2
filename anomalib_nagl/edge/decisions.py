"""Where a detector decides: the scales of its scores, and the thresholds on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, NamedTuple

from anomalib_nagl.bank.bank_file import BankFile, Snapshot
from anomalib_nagl.bank.border import CALIBRATION, THRESHOLDS, scales_of
from anomalib_nagl.bank.calibration import doubt
from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.io.errors import EdgeError


class Thresholds(NamedTuple):
    """Scores, on their scales from 0 to 1, above which an image and a pixel count as abnormal; NaN when never set."""

    image: float
    pixel: float


class Scales(NamedTuple):
    """Which raw scores of images and of pixels are shown as 0.2, 0.5 and 0.8; NaN when never set."""

    image: Scale
    pixel: Scale


class Decisions(ABC):
    """The part of ``NaglEdge`` that says what scores mean."""

    _bank: BankFile
    _manifest: dict[str, Any]

    @property
    @abstractmethod
    def _snapshot(self) -> Snapshot:
        """What the bank holds, as it is compared with."""

    @abstractmethod
    def reload(self) -> None:
        """Take over what the bank holds now."""

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds in use; those of the export until ``set_thresholds`` or ``load`` changes them."""
        # Of the settings: as float32, 0.6 is another number.
        image, pixel = self._snapshot.settings.get(THRESHOLDS, [None, None])
        return Thresholds(*(math.nan if value is None else float(value) for value in (image, pixel)))

    @property
    def scales(self) -> Scales:
        """What the scores of predictions mean; as exported until ``calibrate`` or ``load`` changes it."""
        return Scales(*scales_of(self._snapshot.settings))

    @property
    def calibration(self) -> dict[str, Any]:
        """What references said when the scales were found (``bank.calibration.Calibration.facts``), if they were."""
        return dict(self._snapshot.settings.get(CALIBRATION, {}))

    @property
    def score_threshold(self) -> float | None:
        """The score of a prediction above which it is defective; None for a model without a threshold of images."""
        return self._decides("pred_label", self.thresholds.image)

    @property
    def map_threshold(self) -> float | None:
        """The value of a map above which a pixel is marked; None for a model without a threshold of pixels."""
        return self._decides("pred_mask", self.thresholds.pixel)

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Decide elsewhere on the scale from 0 to 1 of image scores or of pixels, as 0.6; scores stay as they are.

        EdgeError for a number outside the scale, and where the model was exported without thresholds.
        """
        for name, value in (("pred_label", image), ("pred_mask", pixel)):
            if value is not None and name not in self._manifest["outputs"]:
                raise EdgeError(
                    f"found a model that was exported without {name}, expected one with thresholds to change: export a "
                    "model whose thresholds were found"
                )
        old = self._bank.snapshot().settings.get(THRESHOLDS, [None, None])
        new = [was if now is None else _on_scale(now) for was, now in zip(old, (image, pixel), strict=True)]
        self._bank.set("thresholds", **{THRESHOLDS: new})
        self.reload()

    def doubt(self, image: float | None = None, pixel: float | None = None) -> list[str]:
        """What speaks against thresholds: a sentence for each that lies outside the scores that references had."""
        given = zip(("images", "pixels"), (image, pixel), self.scales, strict=True)
        found = [
            doubt(kind, _on_scale(value), scale, self.calibration) for kind, value, scale in given if value is not None
        ]
        return [sentence for sentence in found if sentence]

    def _decides(self, output: str, threshold: float) -> float | None:
        return threshold if output in self._manifest["outputs"] and math.isfinite(threshold) else None


def _on_scale(threshold: Any) -> float:
    number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not number or not 0 < float(threshold) < 1:
        raise EdgeError(
            f"found threshold {str(threshold)[:40]!r} ({type(threshold).__name__}), expected a number between 0 and 1 "
            "on the scale of scores: give 0.5 for the calibrated threshold, or None to leave it"
        )
    return float(threshold)
