"""Signals of programs that tests start."""

from __future__ import annotations

import signal


def hear_interrupts() -> None:
    """As in a terminal: what is started in the background of a shell ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
