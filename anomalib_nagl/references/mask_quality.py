"""What is wrong, or looks wrong, with masks: said wherever references come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from anomalib_nagl.io.image_files import opened_image
from anomalib_nagl.references.images import check_mask, load_mask, read_header
from anomalib_nagl.references.problem import Problem

SOFT = 0.02  # share of grey pixels that makes a mask suspicious
LARGE = 0.5  # share of the image above which a mask can hardly be meant


def mask_problems(image: str, masks: Sequence[str]) -> list[Problem]:
    """What is wrong, or looks wrong, with the mask files of an image."""
    name = masks[0] if masks else image
    try:
        width, height = read_header(image).upright
        pixels = load_mask(masks, image)
        check_mask(pixels, (height, width), image)
    except ValueError as error:
        return [Problem(name, str(error), "see above")]
    return _of_pixels(name, pixels) + [problem for mask in masks for problem in _of_file(mask, image)]


def _of_pixels(name: str, pixels: Tensor) -> list[Problem]:
    share = float(pixels.float().mean())
    if share <= LARGE:
        return []
    found = f"a mask over {share:.0%} of the image"
    return [Problem(name, found, "mark the defect alone, unless all of it is defective", fatal=False)]


def _of_file(mask: str, image: str) -> list[Problem]:
    problems = []
    with opened_image(mask) as opened:
        values = np.asarray(opened.convert("L"))
        turned = opened.getexif().get(0x0112, 1) == 1 and read_header(image).orientation in (2, 3, 4)
    if float(((values > 0) & (values < values.max())).mean()) > SOFT:
        found = "a mask with many grey pixels, all of which count as defect"
        problems.append(Problem(mask, found, "save it black and white, without loss", fatal=False))
    if turned:
        found = "the photograph is stored turned or mirrored, its mask does not say whether it is too"
        problems.append(Problem(mask, f"{found}; taken as drawn on the stored one", "see the sheet", fatal=False))
    return problems
