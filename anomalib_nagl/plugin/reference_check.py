"""How a model sees references before they are used: their quality, and a contact sheet to look at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.panel import Panel, beside, framed, stack
from anomalib_nagl.plugin.checkpoints import check_checkpoint, read_checkpoint
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.pre_processing import transform_of
from anomalib_nagl.plugin.window_size import settle_size
from anomalib_nagl.references.curve import CurvePoint, own_curve
from anomalib_nagl.references.defect_size import size_advice
from anomalib_nagl.references.prepare import prepare_references
from anomalib_nagl.references.quality import DefectQuality, NormalQuality, quality
from anomalib_nagl.references.reference_set import DEVIATING, ReferenceSet

TILE, GAP, COLUMNS = 224, 8, 6
GIVEN_COLOUR, FOUND_COLOUR = (255, 0, 0), (255, 160, 0)


class CheckedReferences(NamedTuple):
    """Quality of normal and abnormal references, contact sheet, curve of more normal ones, advice for small defects."""

    normal: list[NormalQuality]
    abnormal: list[DefectQuality]
    sheet: Image.Image
    curve: list[CurvePoint]
    size_advice: str | None = None


def read_model(checkpoint: str) -> Nagl:
    """The model of a checkpoint; ValueError if the file is missing, or not one of ``Nagl`` with its pre-processor."""
    check_checkpoint(read_checkpoint(checkpoint), checkpoint)
    nagl = Nagl.load_from_checkpoint(checkpoint)
    if transform_of(nagl.pre_processor) is None:
        raise ValueError(
            f"found a checkpoint without a pre-processor: {checkpoint}, expected one: check with --backbone instead"
        )
    return nagl


def check_references(references: ReferenceSet, nagl: Nagl) -> CheckedReferences:
    """Show references to the encoder of a model, which has them afterwards; its head is not asked."""
    settle_size(nagl, references.sizes)
    model = nagl.model
    model.encoder.ensure_weights()
    with torch.no_grad():
        prepared = prepare_references(references, nagl.pre_processor.transform, model.encoder.image_size)
        tokens = model.set_references(*prepared)
    names = references.names
    normal, abnormal = quality(tokens.normal, tokens.abnormal, tokens.patch_mask, names, references.defect_types)
    # A mask that was found by deviation is in contrast by construction.
    guessed = [origin == DEVIATING for origin in references.mask_sources]
    abnormal = [each._replace(contrast=math.nan) if g else each for each, g in zip(abnormal, guessed, strict=False)]
    curve = own_curve(tokens.normal, tokens.abnormal, tokens.patch_mask)
    advice = _size_advice(references, model)
    return CheckedReferences(normal, abnormal, contact_sheet(references, model), curve, advice)


def _size_advice(references: ReferenceSet, model: NaglModel) -> str | None:
    """What is to be said of the size of defects whose masks were given."""
    encoder, defects = model.encoder, references.sizes[len(references.normal) :]
    given = zip(references.masks, references.mask_sources, defects, strict=True)
    known = [(mask.numpy() != 0, size) for mask, origin, size in given if mask is not None and origin != DEVIATING]
    masks, sizes = [mask for mask, _ in known], [size for _, size in known]
    return size_advice(masks, sizes, encoder.image_size, encoder.patch_size, encoder.cut is not None)


def contact_sheet(references: ReferenceSet, model: NaglModel) -> Image.Image:
    """All references as the model sees them; masks are outlined, and captions say whether they were given or found."""
    images = [Image.fromarray(image) for image in model.reference_images.permute(0, 2, 3, 1).cpu().numpy()]
    n = len(references.normal)
    captions = ["normal"] * n + list(references.defect_types)
    tiles = []
    for i, (image, name) in enumerate(zip(images, references.names, strict=True)):
        tile, mask = image.resize((TILE, TILE)), ""
        if i >= n:
            found = references.mask_sources[i - n] == DEVIATING
            tile = _outline(tile, model.reference_masks[i - n].cpu(), FOUND_COLOUR if found else GIVEN_COLOUR)
            mask = ", mask found (orange)" if found else ", mask given (red)"
        caption = printable(f"{captions[i]}: {Path(name).name}{mask}")
        tiles.append(framed(Panel(caption, np.asarray(tile.convert("RGB")))))
    rows = [beside(tiles[start : start + COLUMNS], GAP) for start in range(0, len(tiles), COLUMNS)]
    return stack(rows, GAP, GAP)


def _outline(tile: Image.Image, mask: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """A tile with a line around its mask (H, W)."""
    marked = Image.fromarray(mask.to(torch.uint8).numpy() * 255).resize(tile.size, Image.Resampling.NEAREST)
    line = ImageChops.difference(marked.filter(ImageFilter.MaxFilter(5)), marked)
    return Image.composite(Image.new("RGB", tile.size, colour), tile, line)
