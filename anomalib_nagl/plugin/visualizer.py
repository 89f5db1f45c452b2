"""Pictures of predictions, one for each image, with the references that it resembles beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from anomalib_nagl.io.panel import Panel, beside, draw, draw_panel
from anomalib_nagl.io.prediction_text import picture_of
from anomalib_nagl.plugin.fit_plan import datamodule_of
from anomalib_nagl.plugin.prediction import batch_rows, pixels_of
from anomalib_nagl.plugin.reference_panels import counts, reference_panel

if TYPE_CHECKING:
    from anomalib_nagl.plugin.lightning_model import Nagl


class ReferenceVisualizer(ImageVisualizer):
    """Draws a picture for each image (``io.panel``), with the ``max_references`` of both kinds that it resembles most.

    Abnormal references show their masks, given or found. Whoever gives settings of anomalib's own visualiser, such as
    ``fields``, gets its pictures instead, with the references beside them.
    """

    def __init__(self, max_references: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_references = max_references
        self._as_anomalib = bool(set(kwargs) - {"output_dir"})
        self._written: dict[Path, str] = {}  # what was drawn in this run, and of which image

    def on_test_start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a run: what earlier ones drew is replaced."""
        super().on_test_start(*args, **kwargs)
        self._written.clear()

    def on_predict_start(self, *args: Any, **kwargs: Any) -> None:
        """The same of a prediction."""
        super().on_predict_start(*args, **kwargs)
        self._written.clear()

    def reference_panels(self, nagl: Any, similarity: Tensor | None = None) -> list[Panel]:
        """Panels of the references of a ``Nagl``, empty when it has none, or for another model.

        With the similarities (n + a,) of an image to them, the most similar ones come first; titles say how similar.
        """
        n_normal, number = counts(nagl)
        order = list(range(number)) if similarity is None else similarity.argsort(descending=True).tolist()
        shown = [i for i in order if i < n_normal][: self.max_references]
        shown += [i for i in order if i >= n_normal][: self.max_references]
        panels = []
        for i in shown:
            panel = reference_panel(nagl, i)
            if similarity is not None:
                first = "nearest: " if i == order[0] else ""
                panel = panel._replace(title=f"{first}{panel.title}, similarity {float(similarity[i]):.2f}")
            panels.append(panel)
        return panels

    def on_test_batch_end(  # type: ignore[override]  # narrowed as anomalib's own is
        self,
        trainer: Trainer,
        pl_module: AnomalibModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one file for every image of the batch."""
        del outputs, batch_idx, dataloader_idx
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        data = datamodule_of(trainer)
        name, category = (data.name, data.category) if isinstance(data, AnomalibDataModule) else (None, None)
        for i, picture in enumerate(self.pictures(pl_module, batch)):
            if picture is not None:
                paths = batch.image_path
                picture.save(self._place(paths[i] if paths else "", folder, name, category), compress_level=1)

    def pictures(self, nagl: AnomalibModule | Nagl, batch: ImageBatch) -> list[Image.Image | None]:
        """The picture of each image of a batch that was scored and post-processed; None where there is no map."""
        # Of batches that Nagl has scored; those of other models have none.
        similarity = getattr(batch, "reference_similarity", None)
        panels = [self.reference_panels(nagl, None if similarity is None else similarity[i]) for i in range(len(batch))]
        if self._as_anomalib:
            drawn = (self.visualize(item) for item in batch)
            return [
                beside([picture, *map(draw_panel, own)]) if isinstance(picture, Image.Image) else None
                for picture, own in zip(drawn, panels, strict=True)
            ]
        if batch.anomaly_map is None:
            return [None] * len(batch)
        rules, rows = batch_rows(batch, nagl.post_processor)
        pictures: list[Image.Image | None] = []
        for i, (row, own) in enumerate(zip(rows, panels, strict=True)):
            values = batch.anomaly_map[i].float().cpu().numpy().reshape(batch.anomaly_map.shape[-2:])
            truth = None if batch.gt_mask is None else batch.gt_mask[i].cpu().numpy().reshape(batch.gt_mask.shape[-2:])
            row = row._replace(image=Path(row.image).as_posix())
            shown = picture_of(row, pixels_of(batch, i), values, rules.pixel_threshold, rules.band, truth, own)
            pictures.append(draw(shown))
        return pictures

    def _place(self, image: str, folder: Path, name: str | None, category: str | None) -> Path:
        """Where the picture of an image goes: where anomalib puts it, with more of its folders if that is taken.

        anomalib keeps the last folder of an image alone: cameras' images of several days would replace each other.
        """
        if not image:  # of a loader that knows no files
            image = f"{len(self._written):06}.png"
        place: Path = generate_output_filename(image, folder, name, category, mkdir=False)
        above = Path(os.path.abspath(image)).parent.parts[1:]
        kept = len(place.relative_to(folder).parts) - 1
        while self._written.get(place, image) != image and kept < len(above):
            kept += 1
            place = folder.joinpath(*above[-kept:], place.name)
        self._written[place] = image
        place.parent.mkdir(parents=True, exist_ok=True)
        return place
