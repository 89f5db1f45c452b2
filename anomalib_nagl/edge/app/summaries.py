"""What a draft does to a gallery and to an acceptance set, and what a threshold would, as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from anomalib_nagl.bank.acceptance import DEFECTIVE, GOOD
from anomalib_nagl.bank.verdicts import REVIEW
from anomalib_nagl.edge.app import answers
from anomalib_nagl.edge.app.workbench import Session, Workbench

BINS = 40  # of the histogram


def changes(bench: Workbench, session: Session) -> dict[str, Any]:
    """What a draft changes in the gallery, judged by marks where there are any."""
    found = answers.rows_of(bench, session)
    count = {"found": 0, "alarms": 0, "lost": 0, "cleared": 0, "rising": 0, "falling": 0}
    images = []
    for row in found.rows:
        if answers.changed(row, found):
            count[_change(row.mark, bool(answers.label(row.score or 0, found.view)))] += 1
            now, was = answers.judged(bench, row.score, found.view), answers.judged(bench, row.saved, found.saved)
            images.append({"id": row.picture.id, "name": row.picture.name, "before": was, "after": now})
    waiting = sum(row.score is None or row.saved is None for row in found.rows if not row.picture.error)
    return {**count, "waiting": waiting, "words": words(count), "images": images}


def _change(mark: str | None, alarm: bool) -> str:
    if mark == DEFECTIVE:
        return "found" if alarm else "lost"
    if mark == GOOD:
        return "alarms" if alarm else "cleared"
    return "rising" if alarm else "falling"


def words(count: dict[str, int]) -> str:
    """A line about what changes."""
    said = {
        "found": "{} missed found", "alarms": "{} new alarm{s}", "lost": "{} missed now",
        "cleared": "{} alarm{s} fewer", "rising": "{} unmarked defective now", "falling": "{} unmarked good now",
    }  # fmt: skip
    parts = [text.format(count[name], s="s" * (count[name] != 1)) for name, text in said.items() if count[name]]
    return f"labels changed: {', '.join(parts)}" if parts else "no label changed"


def histogram(bench: Workbench, session: Session, threshold: float | None) -> dict[str, Any]:
    """How many images have which score, by what they were said to be, and what a threshold would mean for these."""
    found = answers.rows_of(bench, session)
    known = found.view.detector.score_threshold
    at = known if threshold is None else threshold
    edges = np.linspace(0, 1, BINS + 1)
    scores = {kind: [row.score for row in found.rows if row.score is not None and row.mark == kind]
              for kind in (None, GOOD, DEFECTIVE)}  # fmt: skip
    bins = {kind: np.histogram(values, edges)[0].tolist() for kind, values in scores.items()}
    return {
        "edges": edges.tolist(),
        "unmarked": bins[None],
        "good": bins[GOOD],
        "defective": bins[DEFECTIVE],
        "false_alarms": 0 if at is None else sum(score > at for score in scores[GOOD] if score is not None),
        "misses": 0 if at is None else sum(score <= at for score in scores[DEFECTIVE] if score is not None),
        "threshold": at,
        "calibrated": 0.5,
        "band": None if at is None else {"low": at - REVIEW, "high": at + REVIEW},
    }


def drift(bench: Workbench) -> dict[str, Any]:
    """How alike the images of each day are to the saved normal references."""
    return bench.scorer.likeness.days(bench.gallery.all())


def acceptance(bench: Workbench, session: Session) -> dict[str, Any]:
    """The acceptance set under what is saved and under the draft."""
    found, rows, worse, better = answers.rows_of(bench, session), [], [], []
    by_content = {row.picture.sha256: row for row in found.rows if row.picture.sha256}
    for sha256, marked in bench.marks(session).items():
        row = by_content.get(sha256)
        right: list[bool | None] = [None, None]
        if row is not None:
            for place, (score, view) in enumerate(((row.saved, found.saved), (row.score, found.view))):
                alarm = None if score is None else answers.label(score, view)
                right[place] = None if alarm is None else alarm == (marked.mark == DEFECTIVE)
        rows.append(
            {
                "name": marked.name,
                "image_id": row and row.picture.id,
                "mark": marked.mark,
                "before": answers.judged(bench, row.saved, found.saved) if row else None,
                "after": answers.judged(bench, row.score, found.view) if row else None,
                "right_before": right[0],
                "right_after": right[1],
            }
        )
        worse += [marked.name] if right == [True, False] else []
        better += [marked.name] if right == [False, True] else []
    return {"rows": rows, "worse": worse, "better": better}
