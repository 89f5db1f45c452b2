"""anomalib's visualisation of predictions, with the references they resemble beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import add_text_to_image, overlay_images, visualize_gt_mask
from lightning.pytorch import Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.plugin.fit_plan import datamodule_of

WINNER = (255, 200, 0)  # frame of the reference that an image resembles most


class ReferenceVisualizer(ImageVisualizer):
    """Appends references to each image: of both kinds the ``max_references`` that it resembles most.

    Abnormal ones show their masks, given or found. The one that it resembles most of all has a frame.
    """

    def __init__(self, max_references: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_references = max_references
        self._written: dict[Path, str] = {}  # what was drawn in this run, and of which image

    def on_test_start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a run: what earlier ones drew is replaced."""
        super().on_test_start(*args, **kwargs)
        self._written.clear()

    def on_predict_start(self, *args: Any, **kwargs: Any) -> None:
        """The same of a prediction."""
        super().on_predict_start(*args, **kwargs)
        self._written.clear()

    def reference_panels(
        self, model: Any, similarity: Tensor | None = None, types: Sequence[str] = ()
    ) -> list[Image.Image]:
        """Panels of a model's references, empty when it has none.

        With the similarities (n + a,) of a query to them, the most similar ones come first and their titles say how
        similar; ``types`` are the defect types of all references.
        """
        if not isinstance(model, NaglModel):
            return []
        images, masks = model.reference_images, model.reference_masks
        n_normal = len(images) - len(masks)
        order = list(range(len(images))) if similarity is None else similarity.argsort(descending=True).tolist()
        shown = [i for i in order if i < n_normal][: self.max_references]
        shown += [i for i in order if i >= n_normal][: self.max_references]
        text = {key: value for key, value in self.text_config.items() if key != "enable"}
        panels = []
        for i in shown:
            picture = Image.fromarray(images[i].permute(1, 2, 0).cpu().numpy())
            if i >= n_normal:
                contour = visualize_gt_mask(masks[i - n_normal].cpu(), mode="contour", color=(255, 0, 0))
                picture = overlay_images(picture, contour)
            picture = picture.resize(self.field_size)
            if similarity is not None and i == order[0]:
                ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), None, WINNER, 6)
            panels.append(add_text_to_image(picture, _title(i, n_normal, similarity, types), **text))
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
        # Attributes of batches that Nagl has scored; other models have neither.
        similarity = getattr(batch, "reference_similarity", None)
        types = getattr(batch, "reference_types", ())
        for i, item in enumerate(batch):
            picture = self.visualize(item)
            if not isinstance(picture, Image.Image):
                continue
            panels = self.reference_panels(pl_module.model, None if similarity is None else similarity[i], types)
            side_by_side(picture, panels).save(self._place(item.image_path or "", folder, name, category))

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


def _title(index: int, n_normal: int, similarity: Tensor | None, types: Sequence[str]) -> str:
    kind = "Normal" if index < n_normal else "Abnormal"
    if similarity is None:
        return f"{kind} reference"
    name = types[index] if index >= n_normal and index < len(types) else kind.lower()
    return f"Like {name} {float(similarity[index]):.3f}"


def side_by_side(picture: Image.Image, panels: list[Image.Image]) -> Image.Image:
    """Append panels to the right of an image."""
    everything = [picture, *panels]
    width, height = sum(p.width for p in everything), max(p.height for p in everything)
    row = Image.new("RGB", (width, height))
    left = 0
    for panel in everything:
        row.paste(panel.convert("RGB"), (left, 0))
        left += panel.width
    return row
