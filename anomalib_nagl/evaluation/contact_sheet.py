"""Contact sheets: the best, median and worst cases of a model, with masks and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from anomalib_nagl.evaluation.records import GOOD, Cell
from anomalib_nagl.evaluation.results import DONE
from anomalib_nagl.evaluation.summary import cell_of
from anomalib_nagl.io.panel import TRUTH
from anomalib_nagl.io.tint import STOPS, STRENGTH
from anomalib_nagl.references.images import load_image, load_mask

EACH = 2  # queries of each kind in a row
ROWS = ("best", "median", "worst")
SIDE = 256  # pixels of the longer side of an image on a sheet
PREFERRED, SHOTS = "nagl", (1, 1)
COLOURS = LinearSegmentedColormap.from_list("above threshold", [[channel / 255 for channel in stop] for stop in STOPS])


class Queries(NamedTuple):
    """Queries of a cell: names, types and scores (P,), and anomaly maps (P, h, w)."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    scores: NDArray[np.float64]
    maps: NDArray[np.float64]


def choose_cells(frame: pd.DataFrame, folder: Path) -> dict[str, Cell]:
    """For each category the cell to show: ``nagl`` with one reference of each kind, or the nearest to it with maps."""
    rows = frame[(frame["status"] == DONE) & (frame["protocol"] == "fixed") & (frame["reference_seed"] == 0)]
    rows = rows[(rows["training_seed"] == 0) & (rows["source"] == "other_domains") & (rows["abnormal"] == "real")]
    found: dict[str, Cell] = {}
    for name, own in rows.groupby("category", sort=False):
        far = (own["model"] != PREFERRED) * 1000 + (own["n"] - SHOTS[0]).abs() + (own["a"] - SHOTS[1]).abs()
        for index in far.sort_values(kind="stable").index:
            cell = cell_of(own.loc[index])
            if read_queries(folder / "scores" / f"{cell.key}.npz") is not None:
                found[str(name)] = cell
                break
    return found


def read_queries(path: Path) -> Queries | None:
    """Read the score file of a cell; None when there is none, or none with maps."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if "maps" not in file.files:
            return None
        names, types = tuple(file["names"].tolist()), tuple(file["types"].tolist())
        return Queries(names, types, file["scores"].astype(np.float64), file["maps"].astype(np.float64))


def pick(types: Sequence[str], scores: NDArray[np.float64], each: int = EACH) -> dict[str, list[int]]:
    """Places of the cases to show: for each row of a sheet up to ``each`` defective queries, then as many good ones.

    Best are the defects with the highest scores and the good queries with the lowest, worst the reverse (worst first),
    and median those in the middle of their kind. With few queries one may be in several rows.
    """
    chosen: dict[str, list[int]] = {row: [] for row in ROWS}
    for good in (False, True):
        own = [i for i, kind in enumerate(types) if (kind == GOOD) == good]
        own.sort(key=lambda i: scores[i] if good else -scores[i])
        start = max(0, (len(own) - each) // 2)
        chosen["best"] += own[:each]
        chosen["median"] += own[start : start + each]
        chosen["worst"] += own[::-1][:each]
    return chosen


def mask_path(data: Path, name: str) -> Path | None:
    """The mask of an image of a test split in the layout of MVTec AD; None if there is none."""
    parts = PurePosixPath(name).parts
    if "test" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("test")
    folder = data.joinpath(*parts[:at], "ground_truth", *parts[at + 1 : -1])
    stem = PurePosixPath(name).stem
    found = sorted(folder.glob(f"{stem}_mask.*")) + sorted(folder.glob(f"{stem}.*"))
    return found[0] if found else None


def draw_sheet(cell: Cell, queries: Queries, data: Path) -> Figure:
    """The sheet of a cell; ``data`` is the root that names are relative to. ValueError for an unreadable image.

    A case is the image with the outline of its mask, and the same tinted where its map is high, in the colours of
    ``io.panel``. They mean the same on the whole sheet: from what 1 % of the pixels of good queries exceed to what
    0.2 % of all do; what lies below is not tinted.
    """
    figure = Figure(
        figsize=(13, 6.2), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0, hspace=0)
    )
    figure.suptitle(
        f"{cell.category}: {cell.model}, {cell.n} normal + {cell.a} abnormal references, seed {cell.reference_seed}",
        fontsize=13,
    )
    axes = figure.subplots(len(ROWS), 4 * EACH, squeeze=False)
    good = [kind == GOOD for kind in queries.types]
    low = float(np.percentile(queries.maps[good] if any(good) else queries.maps, 99))
    high = max(float(np.percentile(queries.maps, 99.8)), low + 1e-9)
    shown: Any = None
    for row, (name, places) in enumerate(pick(queries.types, queries.scores).items()):
        for axis in axes[row]:
            axis.set_axis_off()
        for i, place in enumerate(places):
            shown = draw_case(axes[row, 2 * i], axes[row, 2 * i + 1], queries, place, data, (low, high))
        axes[row, 0].text(
            -0.08, 0.5, name, transform=axes[row, 0].transAxes, rotation=90, va="center", ha="right", fontsize=12
        )
    if shown is not None:
        figure.colorbar(shown, ax=axes, label="anomaly map", fraction=0.02, pad=0.01, panchor=False)
    return figure


def draw_case(left: Axes, right: Axes, queries: Queries, place: int, data: Path, limits: tuple[float, float]) -> Any:
    """Draw the query at a place: image with mask outline on the left, under its heat map on the right."""
    name, kind = queries.names[place], queries.types[place]
    image = _small(load_image(data / name).permute(1, 2, 0).numpy())
    height, width = image.shape[:2]
    for axis in (left, right):
        axis.imshow(image, extent=(0, width, height, 0))
    left.set_anchor("NE")
    right.set_anchor("NW")
    mask = None if kind == GOOD else mask_path(data, name)
    if mask is not None:
        marks = Image.fromarray(load_mask(mask, str(data / name)).numpy() * 255).resize((width, height))
        # A margin closes the line around defects that reach the border.
        framed, places = np.pad(np.asarray(marks) > 127, 1), [np.arange(-1, side + 1) + 0.5 for side in (width, height)]
        # White below dashes: one of the two is seen on any part.
        left.contour(*places, framed, levels=[0.5], colors="white", linewidths=1.4)
        left.contour(*places, framed, levels=[0.5], colors=[_hex(TRUTH[0])], linewidths=1.4, linestyles="dashed")
        left.set(xlim=(0, width), ylim=(height, 0))
    values = np.ma.masked_less_equal(queries.maps[place], limits[0])
    shown = right.imshow(
        values, extent=(0, width, height, 0), cmap=COLOURS, alpha=STRENGTH, vmin=limits[0], vmax=limits[1],
        interpolation="nearest",
    )  # fmt: skip
    left.set_title(f"{kind} {PurePosixPath(name).stem}", fontsize=9, loc="left", pad=3)
    right.set_title(f"score {queries.scores[place]:.3f}", fontsize=9, loc="left", pad=3)
    return shown


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _small(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)
