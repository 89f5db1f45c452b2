"""What can be taken along: the bank, the model for any program, tables, pictures, regions, and a report."""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.edge.app import summaries
from anomalib_nagl.edge.app.gallery import NotThere, Picture
from anomalib_nagl.edge.app.outlines import outlined
from anomalib_nagl.edge.app.pictures import decode
from anomalib_nagl.edge.app.report import report
from anomalib_nagl.edge.app.scoring import View
from anomalib_nagl.edge.app.workbench import Session, Workbench
from anomalib_nagl.edge.detector import Prediction
from anomalib_nagl.edge.inspection import EdgeScorer
from anomalib_nagl.io.panel import draw
from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable, failed_row
from anomalib_nagl.io.prediction_text import picture_of

ZIP, CHUNK = "application/zip", 1 << 20
OF_AN_IMAGE = (ValueError, OSError, MemoryError, RuntimeError)


class Export(NamedTuple):
    """A file to take along: its name, its type, and its bytes as they come about."""

    name: str
    media: str
    content: Iterator[bytes]


def export(bench: Workbench, session: Session, what: str) -> Export:
    """One of the ``EXPORTS``; NotThere for another.

    Bank and model are those that are saved; all else is as the session sees it.
    """
    if what not in EXPORTS:
        raise NotThere(f"found no export {what[:60]!r}, expected one of {', '.join(EXPORTS)}")
    return EXPORTS[what](bench, session)


def _bank(bench: Workbench, session: Session) -> Export:
    def content() -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(dir=bench.room) as room:
            path = Path(room) / "copy.bank"
            bench.real.copy_to(path)
            yield from _bytes(path)

    return Export(f"{bench.model.stem}.bank", "application/vnd.sqlite3", content())


def _model(bench: Workbench, session: Session) -> Export:
    view = bench.saved_view

    def content() -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(dir=bench.room) as room:
            written = view.detector.bake(Path(room) / bench.model.name)
            stream = _Stream()
            with zipfile.ZipFile(stream, "w") as archive:
                for path in (written, written.with_suffix(".bin")):
                    archive.write(path, path.name)
                    yield stream.take()
            yield stream.take()

    return Export(f"{bench.model.stem}.zip", ZIP, content())


def _predictions(bench: Workbench, session: Session) -> Export:
    view, pictures = bench.view(session), bench.gallery.all()

    def content() -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(dir=bench.room) as room:
            path, done = Path(room) / "predictions.csv", 0
            with PredictionTable(path) as table:
                for one in pictures:
                    table.write(_row(bench, one, view)[0])
                    with path.open("rb") as file:
                        file.seek(done)
                        done += len(new := file.read())
                    yield new

    return Export("predictions.csv", "text/csv; charset=utf-8", content())


def _overlays(bench: Workbench, session: Session) -> Export:
    view, pictures = bench.view(session), bench.gallery.all()

    def content() -> Iterator[bytes]:
        scorer, stream, rules = EdgeScorer(view.detector), _Stream(), bench.rules(view)
        with zipfile.ZipFile(stream, "w") as archive:
            for number, one in enumerate(pictures):
                row, found = _row(bench, one, view)
                if found is not None:
                    archive.writestr(_entry(number, one.name), overlay(one, row, found, scorer, rules))
                    yield stream.take()
        yield stream.take()

    return Export("overlays.zip", ZIP, content())


def overlay(one: Picture, row: PredictionRow, found: Prediction, scorer: EdgeScorer, rules: Rules) -> bytes:
    """The picture of an image that was inspected, as PNG."""
    like = found.nearest_reference
    panel = None if like is None else scorer.panel(like)
    beside = [] if panel is None else [panel._replace(title=f"nearest: {panel.title}")]
    pixels = decode(one.read(), one.name)
    shown = picture_of(row, pixels, found.map, rules.pixel_threshold, rules.band, references=beside)
    stream = io.BytesIO()
    draw(shown).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _regions(bench: Workbench, session: Session) -> Export:
    view, pictures = bench.view(session), bench.gallery.all()

    def content() -> Iterator[bytes]:
        pixel = view.detector.map_threshold
        for number, one in enumerate(pictures):
            row, found = _row(bench, one, view)
            size = one.size or (0, 0)
            known = [] if found is None or pixel is None else outlined(found.map, pixel, size)
            line = {
                "image": one.name, "width": size[0], "height": size[1], "score": row.score,
                "verdict": row.verdict or None, "regions": [region._asdict() for region in known],
                "error": row.error or None,
            }  # fmt: skip
            yield (("[" if not number else ",\n") + json.dumps(line)).encode()
        yield b"]\n" if pictures else b"[]\n"

    return Export("regions.json", "application/json", content())


def _report(bench: Workbench, session: Session) -> Export:
    view, known = bench.view(session), summaries.acceptance(bench, session)

    def content() -> Iterator[bytes]:
        scorer, rules = EdgeScorer(view.detector), bench.rules(view)

        def drawn(key: str) -> bytes | None:
            try:
                one = bench.picture(key)
                row, found = _row(bench, one, view)
                return None if found is None else overlay(one, row, found, scorer, rules)
            except OF_AN_IMAGE:
                return None

        yield from report(bench.model.stem, bench.saved.history(), known, rules, drawn)

    return Export("report.html", "text/html; charset=utf-8", content())


def _row(bench: Workbench, one: Picture, view: View) -> tuple[PredictionRow, Prediction | None]:
    """The row of an image, and what was found; of one that fails, the reason."""
    try:
        found = view.detector.score(bench.scorer.tokens(one, view.detector))
    except OF_AN_IMAGE as error:
        return failed_row(one.name, error), None
    width, height = one.size or (1, 1)
    told = Found(found.score, found.map, found.nearest_reference)
    return judge(one.name, told, (height, width), bench.rules(view)), found


def _entry(number: int, name: str) -> str:
    """A name in an archive, on any system: no path, no sign that means something."""
    return f"{number:05}_{re.sub(r'[^A-Za-z0-9._-]', '_', PurePath(name).stem)[:100]}.png"


def _bytes(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


class _Stream(io.RawIOBase):
    """What is written, to be taken away in parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def write(self, data: object) -> int:
        """Take bytes."""
        self._parts.append(bytes(data))  # type: ignore[call-overload]  # a buffer
        return len(self._parts[-1])

    def take(self) -> bytes:
        """All that came since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


EXPORTS: dict[str, Callable[[Workbench, Session], Export]] = {
    "bank": _bank, "model.zip": _model, "predictions.csv": _predictions, "overlays.zip": _overlays,
    "regions.json": _regions, "report.html": _report,
}  # fmt: skip
