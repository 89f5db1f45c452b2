"""What a person sees in a terminal: each line once, none that misleads, and errors of ours as one sentence."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from pathlib import Path
from types import TracebackType

from anomalib_nagl.io.error_sentences import sentence_of

FAILED = 2
SWITCH = "ANOMALIB_NAGL_TRACEBACK"  # set to 1, errors of ours keep their traceback under anomalib's own command
# Lines of anomalib and Lightning that are wrong of a Nagl, or that nobody asked for.
_MISLEADING = re.compile(
    r"ckpt_path is not provided\. Model weights will not be loaded"
    r"|(?:GPU|TPU|HPU) available: "
    r"|Tip: For seamless cloud"
    r"|Initializing distributed|`Trainer\.fit` stopped: "
    r"|(?:Restor|Load)(?:ing|ed) (?:states|model weights|all states)"
    r"|litlogger"
    r"|Exported model to "
    r"|Overriding max_epochs"
)
_WARNINGS = (
    r".*`max_epochs` was not set",
    r".*this fit will run with no optimizer",
    r".*The dirpath has changed from",
    r".*does not have many workers",
    r".*number of training batches",
    r".*Checkpoint directory .* exists and is not empty",
    r".*`training_step` returned `None`",
    r".*tensorboardX",
    r".*lightning\.pytorch\.utilities\.model_summary",
)
_SHOWN = ("anomalib", "anomalib_nagl", "lightning.pytorch")  # whose INFO lines are of interest


class Lines(logging.Handler):
    """Prints each message as a line on stderr, above progress bars, with a mark where it is a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        print(f"{mark}{record.getMessage()}", file=sys.stderr, flush=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what misleads."""
        return not _MISLEADING.search(record.getMessage())


def configure_logger(level: int | str = logging.INFO) -> None:
    """Stand in for anomalib's function of this name: one handler for all, INFO of few."""
    root = logging.getLogger()
    if not any(isinstance(handler, Lines) for handler in root.handlers):
        root.addHandler(Lines())
    root.setLevel(logging.WARNING)
    for name in _SHOWN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)


def quiet_warnings() -> None:
    """Ignore warnings of others that a person can do nothing about."""
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    for words in _WARNINGS:
        warnings.filterwarnings("ignore", message=words)


def tell_errors() -> None:
    """In the program ``anomalib``, let errors of ours end it with one sentence and status 2; all others as before."""
    if not sys.argv or Path(sys.argv[0]).name != "anomalib" or os.environ.get(SWITCH, "0") not in ("", "0"):
        return
    before = sys.excepthook
    if getattr(before, "of_nagl", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = sentence_of(error)
        if told is None:
            before(kind, error, trace)
            return
        print(f"anomalib: {told} ({SWITCH}=1 shows the traceback)", file=sys.stderr)
        raise SystemExit(FAILED)  # what Python makes of the exit of a hook

    hook.of_nagl = True  # type: ignore[attr-defined]
    sys.excepthook = hook
