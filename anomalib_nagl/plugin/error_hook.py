"""Errors of ours in anomalib's own program, which would print hundreds of lines around one sentence."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from anomalib_nagl.io.error_sentences import sentence_of

FAILED = 2
SWITCH = "ANOMALIB_NAGL_TRACEBACK"  # set to 1, errors of ours keep their traceback


def tell_errors() -> None:
    """In the program ``anomalib``, let errors of ours end it with one sentence and status 2; all others as before.

    Called when our classes are built: what is set while anomalib is imported does not last, as it sets its own.
    """
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
