"""The head inside the package, for the backbone ``builtin``: what ``--model.head builtin`` takes."""

from __future__ import annotations

from pathlib import Path

from anomalib_nagl import encoders
from anomalib_nagl.encoders.builtin import read_weights
from anomalib_nagl.plugin.checkpoints import TrainedHead, read_head

NAME = "builtin"
FILE = Path(encoders.__file__).parent / "weights" / "builtin-head-1.safetensors"  # see docs/builtin_head.md
SHA256 = "c00ccdbb0f461a2da410a962a63eff5c6353bb84777427aedbc9fca191c7e749"
SETTINGS = {
    "backbone": "builtin",
    "layers": None,
    "num_proxies": 25,
    "num_heads": 4,
    "variant": "extended+discriminant",
    "image_size": (384, 384),
}


def find_head(name: str | Path) -> TrainedHead:
    """The head of this name, or of a file; ValueError, or WeightsError of a damaged package, if there is none."""
    return TrainedHead(read_weights(FILE, SHA256), dict(SETTINGS)) if str(name) == NAME else read_head(name)
