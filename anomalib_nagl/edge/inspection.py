"""Inspecting images with an exported model, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.verdicts import Found, remarks
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.io import given
from anomalib_nagl.io.arrays import eight_bit
from anomalib_nagl.io.errors import EdgeError

if TYPE_CHECKING:
    from anomalib_nagl.io.panel import Panel

KEPT = 32  # references whose pictures are kept ready


class EdgeScorer:
    """A detector as images are inspected with it.

    ``threshold`` and ``pixel_threshold`` are on the scale of its scores and maps, None where there is none.
    """

    def __init__(self, detector: NaglEdge) -> None:
        self.detector = detector
        self.threshold, self.pixel_threshold = detector.score_threshold, detector.map_threshold
        self._panels: dict[str, Panel | None] = {}

    @property
    def remarks(self) -> list[str]:
        """What is to be said of verdicts by the references of the bank."""
        return remarks(sum(one.active and one.kind == "normal" for one in self.detector.references), False)

    def __call__(self, pixels: Any) -> Found:
        """Score an image, see ``NaglEdge.predict``."""
        found = self.detector.predict(pixels)
        return Found(found.score, found.map, found.nearest_reference)

    def panel(self, nearest: NearestReference) -> Panel | None:
        """A reference to show beside an image; None where the bank does not keep its image."""
        if nearest.name in (panels := self._panels):
            return panels[nearest.name]
        panel = self._read(nearest)
        # Replaced and never changed: images are inspected side by side.
        self._panels = {**(panels if len(panels) < KEPT else {}), nearest.name: panel}
        return panel

    def _read(self, nearest: NearestReference) -> Panel | None:
        from anomalib_nagl.io.panel import Panel, shrink  # needs Pillow

        try:
            files = self.detector.lesson(nearest.name).files
            if given.IMAGE not in files:
                return None
            decoded = given.read(files, nearest.name)
        except EdgeError:  # renamed or removed by somebody else a moment ago
            return None
        kind = f"known {nearest.defect_type}" if nearest.kind == "abnormal" else "normal reference"
        pixels = shrink(eight_bit(decoded.image).transpose(1, 2, 0))
        return Panel(f"{kind} {Path(nearest.name).name}", pixels, decoded.mask)
