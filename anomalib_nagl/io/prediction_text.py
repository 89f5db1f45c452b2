"""What is told of predictions in words: a line for each image, a total, and notes on its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.panel import Panel, Shown
from anomalib_nagl.io.prediction_table import NO_VERDICT, VERDICTS, PredictionRow

FAILED = "failed"
WRONG_VERDICT = "A verdict is wrong? Add the picture to the references and train again, or teach an exported model."


def line(row: PredictionRow) -> str:
    """A line for the terminal."""
    if row.error:
        return printable(f"{row.image}: failed: {row.error}")
    score = "" if row.score is None else f"score {row.score:.3f}"
    parts = [row.verdict or "no verdict", score, _type(row), _nearest(row)]
    return printable(f"{row.image}: {', '.join(part for part in parts if part)}")


def total(rows: Iterable[PredictionRow]) -> str:
    """How many images have which verdict."""
    return total_of(Counter(kind(row.verdict, row.error) for row in rows))


def kind(verdict: str, error: str) -> str:
    """What a row counts as in ``total_of``."""
    return FAILED if error else verdict or "without a verdict"


def total_of(counts: Mapping[str, int]) -> str:
    """How many images have which verdict, by their ``kind``."""
    order = [*(verdict for verdict in VERDICTS if verdict != NO_VERDICT), "without a verdict", FAILED]
    listed = [f"{counts[one]} {one}" for one in order if counts.get(one)]
    many = sum(counts.values())
    return f"{many} image{'s' * (many != 1)}: {', '.join(listed) or 'none'}"


def notes(row: PredictionRow, band: float = 0.0, reason: str = "") -> list[str]:
    """Lines that stand above the picture of an image; ``reason`` is why the score alone did not decide."""
    found = []
    if row.threshold is not None and band >= 5e-4:  # as it would be seen
        found.append(f"look again from {row.threshold - band:.3f} to {row.threshold + band:.3f}")
    if row.regions:
        largest = max(region.area for region in row.regions)
        number = f"{len(row.regions)} region{'s' * (len(row.regions) != 1)}"
        found.append(f"{number}, the largest of {largest} pixels")
    return [*found, *(text for text in (reason, _type(row), _nearest(row)) if text)]


def _type(row: PredictionRow) -> str:
    return f"type {row.defect_type}" if row.defect_type else ""


def _nearest(row: PredictionRow) -> str:
    if not row.nearest_reference:
        return ""
    return f"nearest {PurePath(row.nearest_reference).name} ({row.nearest_type})"


def picture_of(
    row: PredictionRow,
    pixels: NDArray[np.uint8],
    values: NDArray[np.float32],
    pixel_threshold: float | None,
    band: float = 0.0,
    truth: NDArray[Any] | None = None,
    references: Iterable[Panel] = (),
) -> Shown:
    """What is drawn of a row: the image (H, W, 3) and its map (h, w)."""
    return Shown(
        row.image, pixels, values, row.verdict, row.score, row.threshold, pixel_threshold, notes(row, band), truth,
        list(references),
    )  # fmt: skip
