"""Where things lie: this repository, its tests, and the real images and golden numbers beside it."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
SHARED = Path(os.environ.get("NAGL_SHARED", ROOT.parent / "shared"))
