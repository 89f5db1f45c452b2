"""Loaders fork their workers, and what OpenVINO has left in this process must harm neither side.

The clean-up of a compiled OpenVINO model waits for threads that a forked process does not have: a worker in which the
garbage collector comes upon one that its parent has dropped would wait for ever, and the training with it. The parent
hears of each worker that ends by a signal, which must not be handled on a stack that went with such a model.
"""

from __future__ import annotations

import gc
import os
import sys

from anomalib_nagl.io.signal_stack import leave_signal_stack


def _leave_what_openvino_put_up() -> None:
    if "openvino" in sys.modules:
        leave_signal_stack()


def _leave_what_is_inherited() -> None:
    gc.freeze()  # not looked at again in this process, which gives the memory back as it ends


if hasattr(os, "register_at_fork"):  # not on Windows, where workers inherit nothing
    os.register_at_fork(before=_leave_what_openvino_put_up, after_in_child=_leave_what_is_inherited)
