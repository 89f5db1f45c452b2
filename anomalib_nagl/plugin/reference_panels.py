"""References of a model as they are shown to people: their files while these are what they were, or kept copies."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.io.arrays import eight_bit
from anomalib_nagl.io.panel import Panel
from anomalib_nagl.references.images import image_hash, load_image


def counts(nagl: Any) -> tuple[int, int]:
    """How many normal references a model has, and how many in all; none where it is not a ``Nagl``."""
    images, masks = getattr(nagl.model, "reference_images", ()), getattr(nagl.model, "reference_masks", ())
    return len(images) - len(masks), len(images)


def reference_panel(nagl: Any, index: int) -> Panel:
    """A reference by its number, normal ones first, with the mask of an abnormal one, given or found."""
    (n_normal, _), records = counts(nagl), nagl.references
    record = records[index] if index < len(records) else {"name": "", "sha256": ""}
    kept = nagl.model.reference_images[index].permute(1, 2, 0).cpu().numpy()
    mask = None if index < n_normal else nagl.model.reference_masks[index - n_normal].cpu().numpy()
    kind = "normal reference" if index < n_normal else f"known {record.get('defect_type', 'defect')}"
    filed = _file(record["name"], record["sha256"])
    # The copy is squeezed to the size of the network input.
    return Panel(f"{kind} {Path(record['name']).name}".strip(), kept if filed is None else filed, mask)


@lru_cache(maxsize=16)
def _file(path: str, sha256: str) -> NDArray[np.uint8] | None:
    """The image of a file (H, W, 3), if it is still what it was."""
    try:
        same = bool(path) and Path(path).is_file() and image_hash(path) == sha256
        return eight_bit(load_image(path).numpy()).transpose(1, 2, 0) if same else None
    except (ValueError, OSError):
        return None
