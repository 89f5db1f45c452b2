"""What a person sees of anomalib's commands in a terminal: each line once, and none that misleads.

Imported before anomalib is, whose imports warn already.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings

# A line of anomalib that is wrong of a Nagl, which may have references without a checkpoint.
_MISLEADING = re.compile(r"ckpt_path is not provided\. Model weights will not be loaded")
_WARNINGS = (
    r".*`max_epochs` was not set",
    r".*this fit will run with no optimizer",
    r".*The dirpath has changed from",
    r".*does not have many workers",
    r".*module\(s\) in eval mode at the start of training",
    r".*number of training batches",
    r".*across ranks is zero",
    r".*Checkpoint directory .* exists and is not empty",
    r".*`training_step` returned `None`",
    r".*tensorboardX",
    r".*'pin_memory' argument is set as true",
    r".*lightning\.pytorch\.utilities\.model_summary",
)
_OURS = "anomalib_nagl"  # whose INFO lines are of interest
# They bring handlers of their own, which would print lines twice.
_TALKATIVE = ("anomalib", "lightning", "lightning_fabric", "lightning_utilities", "torchmetrics")


class Lines(logging.Handler):
    """Prints each message as a line on stderr, above progress bars, with a mark where it is a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        print(f"{mark}{self.format(record)}", file=sys.stderr, flush=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what misleads."""
        return not _MISLEADING.search(record.getMessage())


def configure_logger(level: int | str = logging.INFO) -> None:
    """Stand in for anomalib's function of this name: one handler for all, INFO of this package alone."""
    root = logging.getLogger()
    if not any(isinstance(handler, Lines) for handler in root.handlers):
        root.addHandler(Lines())
    root.setLevel(logging.WARNING)
    for name in (*logging.root.manager.loggerDict, *_TALKATIVE):
        if name.partition(".")[0] in _TALKATIVE:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    logging.getLogger(_OURS).setLevel(level)


def quiet_warnings() -> None:
    """Ignore warnings of others that a person can do nothing about."""
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    for words in _WARNINGS:
        warnings.filterwarnings("ignore", message=words)
