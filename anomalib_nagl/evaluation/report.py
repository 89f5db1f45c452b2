"""From the folder of an evaluation to something to read: tables, plots, contact sheets and gaps."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anomalib_nagl.evaluation.contact_sheet import choose_cells, draw_sheet, read_queries
from anomalib_nagl.evaluation.costs import COSTS, read_costs
from anomalib_nagl.evaluation.gaps import write_gaps
from anomalib_nagl.evaluation.plots import plot_categories, plot_curves, plot_shots, shots_of, styles
from anomalib_nagl.evaluation.results import DONE, read_results
from anomalib_nagl.evaluation.summary import sections, summarise
from anomalib_nagl.evaluation.tables import title, write_tables
from anomalib_nagl.io.files import atomic_write, atomic_write_bytes

TERMS = (
    "Contact sheets in sheets/ show images of the data set: do not publish or commit them unless its terms allow it."
)
_log = logging.getLogger(__name__)


def write_report(folder: Path) -> list[Path]:
    """Write what is to be read of an evaluation into its folder, as far as it has run; returns the files.

    ``tables.md``, ``summary.csv`` and ``gaps.md``, ``plots/*.png``, and ``sheets/*.png`` where the images are found.
    Raises ValueError when the folder has no results, or settings that cannot be read.
    """
    settings = read_settings(folder / "settings.json")
    frame = read_results(folder, settings)
    summary = summarise(frame, settings.get("compare_to", "normal_only"))
    plots = _write_plots(frame, folder)
    sheets, notes = _write_sheets(frame, settings, folder)
    for note in notes:
        _log.warning(note)
    remarks = "".join(f"- {note}\n" for note in notes)
    tables = write_tables(frame, summary, read_costs(folder / COSTS), settings)
    texts = {
        "tables.md": f"{tables}\n## Contact sheets\n\n{remarks}",
        "summary.csv": summary.to_csv(index=False, lineterminator="\n"),
        "gaps.md": write_gaps(frame, folder),
    }
    return [*(_write(folder / name, text.encode()) for name, text in texts.items()), *plots, *sheets]


def read_settings(path: Path) -> dict[str, Any]:
    """Read ``settings.json``; nothing where it is missing. Raises ValueError when it cannot be read."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"found {path} that is no JSON object ({error}): run evaluate again to write it") from error


def _write(path: Path, content: bytes) -> Path:
    atomic_write_bytes(path, content)
    return path


def _write_figure(path: Path, figure: Figure) -> Path:
    canvas = FigureCanvasAgg(figure)
    atomic_write(path, canvas.print_png)
    return path


def _write_plots(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Plots of every protocol with the usual source and references; others are in the tables and gaps."""
    done = frame[frame["status"] == DONE]
    looks = styles(list(dict.fromkeys(frame["model"])))
    written = []
    for key, rows in sections(done):
        if key[1:] != ("other_domains", "real"):
            continue
        protocol, heading = key[0], title(*key)
        written.append(_write_figure(folder / "plots" / f"shots_{protocol}.png", plot_shots(rows, looks, heading)))
        for n, a in shots_of(rows):
            figures = {
                "categories": plot_categories(rows, looks, (n, a), heading),
                "curves": plot_curves(rows, folder, looks, (n, a), heading),
            }
            for kind, figure in figures.items():
                if figure is not None:
                    path = folder / "plots" / f"{kind}_{protocol}_n{n}_a{a}.png"
                    written.append(_write_figure(path, figure))
    return written


def _write_sheets(frame: pd.DataFrame, settings: dict[str, Any], folder: Path) -> tuple[list[Path], list[str]]:
    """Contact sheets, and what there is to say of them."""
    cells = choose_cells(frame, folder)
    if not cells:
        return [], ["No contact sheet: no cell of a head (protocol fixed, first seeds) has anomaly maps in scores/."]
    data = settings.get("data")
    if not data or not Path(data).is_dir():
        return [], ["No contact sheet: the images are not where `data` of settings.json says; put them there."]
    written, notes = [], []
    for category, cell in cells.items():
        queries = read_queries(folder / "scores" / f"{cell.key}.npz")
        if queries is None:
            continue
        try:
            figure = draw_sheet(cell, queries, Path(data))
        except ValueError as error:
            notes.append(f"No contact sheet of {category}: {error}")
            continue
        written.append(_write_figure(folder / "sheets" / f"{category}.png", figure))
    return written, [*([TERMS] if written else []), *notes]
