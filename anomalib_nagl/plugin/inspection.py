"""Inspecting images with a model in torch: of references alone, or of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.verdicts import Found, remarks
from anomalib_nagl.core.variants import HEAD_FREE
from anomalib_nagl.io.panel import Panel
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.prediction import decision_thresholds, score_image
from anomalib_nagl.plugin.reference_check import read_model
from anomalib_nagl.plugin.reference_panels import reference_panel
from anomalib_nagl.references.reference_set import ReferenceSet

BACKBONE = "builtin"  # unless another is named: its weights are in the package


class TorchScorer:
    """A model of torch as images are inspected with it.

    ``threshold`` and ``pixel_threshold`` are on the scale of its scores and maps, None where there is none. Names of
    references that lie below ``root`` are told without it.
    """

    def __init__(self, nagl: Nagl, root: str | Path | None = None) -> None:
        self.nagl = nagl.eval()
        self._root = None if root is None else Path(root)
        self.threshold, self.pixel_threshold = decision_thresholds(nagl.post_processor)

    @property
    def remarks(self) -> list[str]:
        """What is to be said of verdicts by these references."""
        return remarks(
            self.nagl.model.n_normal, bool(getattr(self.nagl.post_processor, "calibration", {}).get("overlap"))
        )

    @classmethod
    def from_references(cls, references: str | Path | ReferenceSet, backbone: str | None = None) -> TorchScorer:
        """A model of a folder of references, or of a set; ValueError where they will not do.

        Nothing is trained and, for the embedded backbone, nothing is fetched.
        """
        folder = references if isinstance(references, str | Path) else None
        known = ReferenceSet.from_folder(folder) if folder is not None else references
        if not isinstance(known, ReferenceSet):
            raise ValueError(
                f"found references of type {type(references).__name__}, expected the path of a folder or a ReferenceSet"
            )
        nagl = Nagl(backbone or BACKBONE, variant=HEAD_FREE, evaluator=False, visualizer=False)
        nagl.set_references(known)
        return cls(nagl, folder)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> TorchScorer:
        """The model of a checkpoint that has references; ValueError for another."""
        nagl = read_model(str(path))
        if not nagl.model.has_references:
            raise ValueError(
                f"found a checkpoint without references: {path}, expected one that knows a part: give --references "
                "with the folder of that part, or the checkpoint of a run that had them"
            )
        return cls(nagl)

    def __call__(self, pixels: Any) -> Found:
        """Score an image, see ``references.images.as_image``."""
        scored = score_image(self.nagl, pixels)
        values = scored.shown.anomaly_map[0, 0].float().cpu().numpy()
        return Found(float(scored.shown.pred_score), values, self._short(scored.nearest))

    def panel(self, nearest: NearestReference) -> Panel:
        """A reference to show beside an image."""
        return reference_panel(self.nagl, nearest.index)

    def _short(self, nearest: NearestReference) -> NearestReference:
        path = Path(nearest.name)
        if self._root is None or not path.is_relative_to(self._root):
            return nearest
        name = path.relative_to(self._root).as_posix()
        return replace(nearest, name=name)
