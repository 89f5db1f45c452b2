"""What metrics of anomalib need to know of this model's scores."""

from __future__ import annotations

import logging
from typing import Any

from anomalib.metrics import AUPIMO
from anomalib.metrics.evaluator import Evaluator

logger = logging.getLogger(__name__)
MOST_THRESHOLDS = 20_000  # that lie apart as numbers of 32 bits within a hundredth of the range of scores


def note_metrics(evaluator: Any) -> None:
    """Say of a metric that may fail in the middle of a test what helps."""
    if not isinstance(evaluator, Evaluator):
        return
    for metric in (*evaluator.val_metrics, *evaluator.test_metrics):
        if isinstance(metric, AUPIMO) and metric.num_thresholds > MOST_THRESHOLDS:
            logger.warning(
                "The %d thresholds of AUPIMO may lie closer together than numbers of 32 bits do: if it says that they "
                "do not increase, use AUPIMO(num_thresholds=%d).", metric.num_thresholds, MOST_THRESHOLDS,
            )  # fmt: skip
