"""OpenVINO's converter and NNCF report to their makers unless somebody opted out; an export of ours does not.

The root of the package keeps their module for that from being imported. This is for programs that imported them before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH = "CI"  # where both of them keep quiet: the only switch that is not a file in the user's home


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Let them believe that they run unattended, for a while."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
