"""Workers of loaders leave alone what belongs to their parent."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_nagl.plugin  # noqa: F401  # what every run imports

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks here")

COMPILED = """
import gc, os, sys
import numpy as np, openvino as ov
import anomalib_nagl.plugin.lightning_model
from openvino import opset13 as ops

class Holder: ...

gc.disable()
given = ops.parameter([4, 4], np.float32)
holder = Holder()
holder.me = holder
holder.compiled = ov.Core().compile_model(ov.Model([ops.relu(given)], [given]), "CPU")
holder.compiled(np.ones((4, 4), np.float32))
del holder
if os.fork() == 0:
    gc.collect()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""

IN_ORDER = """
import gc, signal
import numpy as np, openvino as ov
import anomalib_nagl.plugin.forking
from openvino import opset13 as ops
from torch.utils.data import DataLoader

def compiled():
    given = ops.parameter([4, 4], np.float32)
    return ov.Core().compile_model(ov.Model([ops.relu(given)], [given]), "CPU")

first, second = compiled(), compiled()
del first
gc.collect()
del second
gc.collect()
print(len(list(DataLoader(range(8), num_workers=2))))
signal.raise_signal(signal.SIGCHLD)  # any thread may hear of a worker: now this one does
"""


class Dropped:
    """Garbage that tells when it is cleared up."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.me = pipe, self

    def __del__(self) -> None:
        os.write(self.pipe, b"cleared up")


def test_a_forked_process_does_not_clear_up_what_it_inherited() -> None:
    ends = os.pipe()
    enabled = gc.isenabled()
    gc.disable()
    try:
        Dropped(ends[1])
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        os.set_blocking(ends[0], False)
        with pytest.raises(BlockingIOError):
            os.read(ends[0], 20)
        gc.collect()
        assert os.read(ends[0], 20) == b"cleared up"  # here it is
    finally:
        if enabled:
            gc.enable()


@pytest.mark.slow
def test_a_compiled_model_that_was_dropped_holds_no_worker_up(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=tmp_path, timeout=120, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_workers_end_safely_after_compiled_models_did(tmp_path: Path) -> None:
    """The signal of a worker's end is not handled on the stack that OpenVINO took away again."""
    done = subprocess.run([sys.executable, "-c", IN_ORDER], cwd=tmp_path, timeout=120, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == b"8\n"
