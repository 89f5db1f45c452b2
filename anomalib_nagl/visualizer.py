"""anomalib's pictures of predictions with the references beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import add_text_to_image, overlay_images, visualize_gt_mask
from lightning.pytorch import Trainer
from PIL import Image


class ReferenceVisualizer(ImageVisualizer):
    """Appends the first ``max_references`` normal references, and abnormal ones with their masks, to each picture."""

    def __init__(self, max_references: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_references = max_references

    def reference_panels(self, model: Any) -> list[Image.Image]:
        """Panels of a model's references, empty when it has none."""
        images, masks = getattr(model, "reference_images", None), getattr(model, "reference_masks", None)
        if images is None or masks is None or not len(images):
            return []
        pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        normal, abnormal = pictures[: len(images) - len(masks)], pictures[len(images) - len(masks) :]
        marked = [
            overlay_images(picture, visualize_gt_mask(mask, mode="contour", color=(255, 0, 0)))
            for picture, mask in zip(abnormal, masks.cpu(), strict=True)
        ]
        titled = [("Normal reference", p) for p in normal[: self.max_references]]
        titled += [("Abnormal reference", p) for p in marked[: self.max_references]]
        text = {key: value for key, value in self.text_config.items() if key != "enable"}
        return [add_text_to_image(picture.resize(self.field_size), title, **text) for title, picture in titled]

    def on_test_batch_end(  # type: ignore[override]  # narrowed as anomalib's own is
        self,
        trainer: Trainer,
        pl_module: AnomalibModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one picture for every image of the batch."""
        del outputs, batch_idx, dataloader_idx
        folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        panels = self.reference_panels(pl_module.model)
        data = getattr(trainer, "datamodule", None)
        for item in batch:
            picture = self.visualize(item)
            if not isinstance(picture, Image.Image):
                continue
            side_by_side(picture, panels).save(
                generate_output_filename(
                    input_path=item.image_path or "",
                    output_path=folder,
                    dataset_name=getattr(data, "name", None),
                    category=getattr(data, "category", None),
                )
            )


def side_by_side(picture: Image.Image, panels: list[Image.Image]) -> Image.Image:
    """Append panels to the right of a picture."""
    everything = [picture, *panels]
    width, height = sum(p.width for p in everything), max(p.height for p in everything)
    row = Image.new("RGB", (width, height))
    left = 0
    for panel in everything:
        row.paste(panel.convert("RGB"), (left, 0))
        left += panel.width
    return row
