"""All that knows anomalib and Lightning; importing it shows our classes to anomalib.

anomalib comes first: once it is complete, the start-up hook may import any module of this room.
"""

from __future__ import annotations

import anomalib.models  # noqa: F401

import anomalib_nagl.plugin.forking  # noqa: F401
from anomalib_nagl.plugin.registration import register

register()
