"""Whether drift is noticed: real images that darken a little more each day, against references that do not.

    python examples/benchmarks/drift.py --data datasets/real_small --backbone builtin

The references are the first good images of a category's training set, the queries of each day the same images of its
test set, good and defective ones as they come, each darkened by the day's factor as by a lamp that fades. Told is, for
each category, what ``bank.drift`` says: what references have among each other, what is allowed, the medians of the
first and of the last day, and on which day a sentence comes first. How often it comes for nothing is told by days that
are not darkened, each another part of the test images. Every folder given is in MVTec's layout.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.bank import drift
from anomalib_nagl.bank.drift import Drift
from anomalib_nagl.core.state import ReferenceTokens, as_array
from anomalib_nagl.io.arrays import as_image, decoder


def queries(category: Path, limit: int) -> list[Path]:
    """Test images, evenly spaced so that good and defective ones come as they are mixed there."""
    found = decoder().find_images(category / "test")
    step = max(len(found) / limit, 1.0)
    return [found[int(i * step)] for i in range(int(len(found) / step))]


@torch.no_grad()
def similarities(nagl: Nagl, images: list[np.ndarray], normal: np.ndarray) -> Iterator[float]:
    """How alike images (3, H, W) in [0, 1] and unit normal patches (K, C) are."""
    for image in images:
        tokens = nagl.model.encode(nagl.pre_processor(torch.from_numpy(image)[None]))
        yield drift.similarity(as_array(tokens[0]), normal)


def measure(category: Path, given: argparse.Namespace) -> dict[str, str]:
    """A row of the table."""
    nagl = Nagl(backbone=given.backbone, image_size=given.image_size).eval()
    references = decoder().find_images(category / "train/good")[: given.references]
    nagl.set_references(ReferenceSet(normal=tuple(torch.from_numpy(as_image(path)) for path in references)))
    core = nagl.model
    keys = tuple(record["sha256"] for record in nagl.references)
    patches = core.patches(
        ReferenceTokens(
            core.normal_tokens, core.abnormal_tokens, core.abnormal_patch_mask, core.abnormal_localized, keys
        ),
        nagl.bank_limit,
    )
    seen, normal = Drift(drift.own_range(patches)), drift.normal_patches(patches)
    images = [as_image(path) for path in queries(category, given.images)]
    alarms = 0
    for part in range(given.quiet):
        day = f"quiet {part}"
        for value in similarities(nagl, images[part :: given.quiet], normal):
            seen.add(day, value)
        alarms += seen.sentence(day) is not None
    first, medians = "never", []
    for number in range(given.days):
        day, factor = f"day {number}", 1 - given.fade * number
        for value in similarities(nagl, [image * np.float32(factor) for image in images], normal):
            seen.add(day, value)
        medians.append(seen.median(day))
        if seen.sentence(day) is not None:
            first = f"{number} ({factor:.2f})"
            break
    assert seen.own is not None
    low, high = seen.own.allowed
    return {
        "category": category.name,
        "references": " / ".join(f"{value:.3f}" for value in seen.own),
        "allowed": f"{low:.3f} to {high:.3f}",
        "first day": f"{medians[0]:.3f}",
        "last day": f"{medians[-1]:.3f}",
        "told for nothing": f"{alarms} of {given.quiet}",
        "told first on day (brightness)": first,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--image_size", type=int, default=448)
    parser.add_argument("--references", type=int, default=8, help="normal references")
    parser.add_argument("--images", type=int, default=60, help="images of a day")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--fade", type=float, default=0.09, help="brightness that a day takes, as a share of the first")
    parser.add_argument("--quiet", type=int, default=3, help="days that are not darkened")
    given = parser.parse_args()
    categories = [one for data in given.data for one in sorted(data.iterdir()) if (one / "train/good").is_dir()]
    rows = [measure(one, given) for one in categories]
    table = Table(*rows[0], title=f"{given.backbone}, {given.references} references, {given.fade:.0%} darker each day")
    for row in rows:
        table.add_row(*row.values())
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
