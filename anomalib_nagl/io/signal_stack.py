"""The stack on which a thread handles signals.

OpenVINO's CPU plugin (seen in 2026.1 and 2026.4) gives the thread that loads it a stack for signals, and takes it away
with the last model of its core. Two cores that end in the order in which they began, or one that ends in another
thread, leave that thread a stack that is gone, and the next signal that Python handles ends the process: Ctrl-C, or
SIGCHLD when a worker of a loader is done.
"""

from __future__ import annotations

import ctypes
import sys

DISABLED = 2  # SS_DISABLE of signal.h


class _Stack(ctypes.Structure):
    """``stack_t`` of signal.h, as Linux has it."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def leave_signal_stack() -> None:
    """Let this thread handle signals on its ordinary stack from now on; nothing to do but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, DISABLED, 0)), None)
