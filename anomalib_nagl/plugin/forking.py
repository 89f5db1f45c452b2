"""Loaders fork their workers, and a worker must not clear up after its parent.

The clean-up of a compiled OpenVINO model waits for threads that a forked process does not have: a worker in which the
garbage collector comes upon one that its parent has dropped would wait for ever, and the training with it.
"""

from __future__ import annotations

import gc
import os


def _leave_what_is_inherited() -> None:
    gc.freeze()  # not looked at again in this process, which gives the memory back as it ends


if hasattr(os, "register_at_fork"):  # not on Windows, where workers inherit nothing
    os.register_at_fork(after_in_child=_leave_what_is_inherited)
