"""Results for each defect type: how well it is told from the good images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.plugin.fit_plan import datamodule_of
from anomalib_nagl.plugin.run_callback import RunCallback

FILE_NAME = "per_type.csv"
BINS = 10_000  # of pixel scores in [0, 1]: images need not be kept. torchmetrics' binned AUROC loops over its bins.
GOOD = "good"


class TypeResults:
    """Collects raw scores of a test; ``types`` maps the path of an image to its defect type."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self.types = types
        self._scores: dict[str, list[float]] = {}
        self._pixels: dict[str, Tensor] = {}  # (2, BINS) counts of normal and abnormal pixels

    def update(self, paths: list[str], labels: Tensor, scores: Tensor, maps: Tensor, masks: Tensor | None) -> None:
        """Add a batch: scores (B,), maps (B, 1, H, W) in [0, 1], masks (B, H, W) or none."""
        for i, path in enumerate(paths):
            defect_type = self.types.get(path, "abnormal") if labels[i] else GOOD
            self._scores.setdefault(defect_type, []).append(float(scores[i]))
            if masks is None:
                continue
            counts = self._pixels.setdefault(defect_type, torch.zeros(2, BINS, dtype=torch.long))
            bins = (maps[i].flatten() * BINS).long().clamp(0, BINS - 1).cpu()
            marked = masks[i].flatten().bool().cpu()
            counts += torch.stack([bins[~marked].bincount(minlength=BINS), bins[marked].bincount(minlength=BINS)])

    def rows(self) -> list[dict[str, str]]:
        """Type, images, image AUROC and pixel AUROC of each type against the good images; "" where undefined.

        Pixel AUROC compares marked pixels of the type with all others of its images and of the good ones, in steps of
        1/10000 of the score.
        """
        good = self._scores.get(GOOD, [])
        rows = []
        for name in sorted(set(self._scores) - {GOOD}):
            scores = torch.tensor(good + self._scores[name], dtype=torch.float64)
            labels = torch.tensor([0] * len(good) + [1] * len(self._scores[name]))
            image = f"{float(binary_auroc(scores, labels)):.4f}" if good else ""
            counts = self._pixels.get(name)
            if counts is not None and GOOD in self._pixels:
                counts = counts + self._pixels[GOOD]
            pixel = "" if counts is None or not bool((counts.sum(1) > 0).all()) else f"{_auroc(counts):.4f}"
            rows.append(
                {"type": name, "images": str(len(self._scores[name])), "image_AUROC": image, "pixel_AUROC": pixel}
            )
        return rows

    def report(self, folder: str | Path) -> None:
        """Print the table and write it to ``per_type.csv``, in one step; nothing when there is no defect."""
        rows = self.rows()
        if not rows:
            return
        table = Table(title=f"Each defect type against {len(self._scores.get(GOOD, []))} good images")
        for column in rows[0]:
            table.add_column(column.replace("_", " "), justify="left" if column == "type" else "right")
        for row in rows:
            table.add_row(*row.values())
        Console().print(table)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_bytes(Path(folder) / FILE_NAME, text.getvalue().encode())


class DefectTypeReport(RunCallback):
    """Reports a test for each defect type, in the log and in the folder of the run.

    It reads raw scores, so it comes before anomalib's post-processor in the list of callbacks.
    """

    def __init__(self) -> None:
        self._results: TypeResults | None = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Look up the defect type of every tested image; with several processes each has but a part of them."""
        del pl_module
        data = datamodule_of(trainer)
        tested = samples(data.test_data, LabelName.ABNORMAL) if isinstance(data, AnomalibDataModule) else []
        types = {sample.image: sample.defect_type for sample in tested}
        self._results = TypeResults(types) if types and trainer.world_size == 1 else None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the raw scores of a batch."""
        del trainer, pl_module, batch, batch_idx, dataloader_idx
        if self._results is not None and outputs.gt_label is not None:
            self._results.update(
                outputs.image_path, outputs.gt_label, outputs.pred_score, outputs.anomaly_map, outputs.gt_mask
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print results for each defect type, and write them into the folder of this run."""
        del pl_module
        if self._results is not None:
            self._results.report(trainer.default_root_dir)
            self._results = None


def _auroc(counts: Tensor) -> float:
    """AUROC of binned scores, counts (2, bins) of negatives and positives; equal scores count half."""
    negative, positive = counts.double()
    below = negative.cumsum(0) - negative
    return float(((below + negative / 2) * positive).sum() / (negative.sum() * positive.sum()))
