"""What a prediction found, where people look for it: a line for each image, a table, and where both lie.

It has to come after the callbacks of anomalib, which make labels and masks of what a batch holds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable
from anomalib_nagl.io.prediction_text import WRONG_VERDICT, line, total
from anomalib_nagl.plugin.prediction import batch_rows
from anomalib_nagl.plugin.run_callback import RunCallback
from anomalib_nagl.plugin.visualizer import ReferenceVisualizer

FILE_NAME = "predictions.csv"


class PredictionReport(RunCallback):
    """Writes ``predictions.csv`` into the folder of a prediction, row by row, and prints it at the end.

    Of several processes each writes its own images, all but the first into ``predictions.RANK.csv``.
    """

    def __init__(self) -> None:
        self._table: PredictionTable | None = None
        self._rows: list[PredictionRow] = []

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin a table."""
        del pl_module
        rank = trainer.global_rank
        name = f"predictions.{rank}.csv" if rank else FILE_NAME
        self._table, self._rows = PredictionTable(Path(trainer.default_root_dir) / name), []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write the rows of a batch."""
        del trainer, batch, batch_idx, dataloader_idx
        if self._table is None or getattr(outputs, "anomaly_map", None) is None:
            return
        for row in batch_rows(outputs, pl_module.post_processor)[1]:
            named = row._replace(image=row.image or f"image {len(self._rows)}")
            self._table.write(named)
            self._rows.append(named)

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Close the table and tell what is in it."""
        del pl_module
        self._close()
        if not self._rows or self._table is None:
            return
        for row in self._rows:
            print(line(row))
        print(total(self._rows))
        print(f"Table: {self._table.path}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by its callback connector
            if isinstance(callback, ReferenceVisualizer):
                folder = callback.output_dir or Path(trainer.default_root_dir) / "images"
                print(f"Pictures: {folder}")
        print(WRONG_VERDICT)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Close the table, and say how many rows are there if the prediction was interrupted."""
        super().on_exception(trainer, pl_module, exception)
        if self._table is not None and isinstance(exception, KeyboardInterrupt):
            where = f": {self._table.path}" if self._rows else ""
            print(f"\ninterrupted: {len(self._rows)} images are done{where}", file=sys.stderr)
        self._close()

    def _close(self) -> None:
        if self._table is not None:
            self._table.__exit__(None, None, None)
