"""What the server says of images, drafts and banks, as plain values; the page and other clients get the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from anomalib_nagl.bank.verdicts import REVIEW
from anomalib_nagl.edge.app.gallery import Picture, total_of
from anomalib_nagl.edge.app.outlines import outlined
from anomalib_nagl.edge.app.pictures import PICTURE, fitted
from anomalib_nagl.edge.app.scoring import View
from anomalib_nagl.edge.app.steps import Step
from anomalib_nagl.edge.app.wording import of_change, of_error
from anomalib_nagl.edge.app.workbench import Session, Workbench, facts_of
from anomalib_nagl.edge.detector import Prediction
from anomalib_nagl.io.prediction_table import DEFECTIVE, GOOD, LOOK_AGAIN


class Row(NamedTuple):
    """An image of the gallery as somebody sees it: scores in the state of the draft and as saved, and its mark."""

    picture: Picture
    score: float | None
    saved: float | None
    mark: str | None


class Gallery(NamedTuple):
    """All rows, and the states that they were scored in."""

    rows: list[Row]
    view: View
    saved: View


def rows_of(bench: Workbench, session: Session) -> Gallery:
    """The gallery as a session sees it."""
    view, saved = bench.view(session), bench.saved_view
    now, before = bench.scorer.scores.board(view.key), bench.scorer.scores.board(saved.key)
    marks = bench.marks(session)
    rows = []
    for one in bench.gallery.all():
        marked = marks.get(one.sha256)
        rows.append(Row(one, now.get(one.id), before.get(one.id), marked and marked.mark))
    return Gallery(rows, view, saved)


def label(score: float, view: View) -> bool | None:
    """Whether a score is above the threshold of a state; None without one."""
    threshold = view.detector.score_threshold
    return None if threshold is None else score > threshold


def state(bench: Workbench, session: Session) -> dict[str, Any]:
    """All that a page shows around the gallery."""
    view, saved, found = bench.view(session), bench.saved_view, rows_of(bench, session)
    now, was = view.detector.thresholds, saved.detector.thresholds
    threshold = view.detector.score_threshold
    counts = {GOOD: 0, DEFECTIVE: 0, LOOK_AGAIN: 0}
    for row in found.rows:
        if row.score is not None and (verdict := bench.verdict(row.score, view)):
            counts[verdict] += 1
    total = total_of(bench.gallery.all())
    scored = sum(row.score is not None for row in found.rows)
    draft = session.draft
    return {
        "model": facts_of(bench, threshold is not None),
        "revision": saved.detector._snapshot.revision,
        "author": bench.real.author.name,
        "saved_by_others": bool(session.refused),
        "refused": session.refused,
        "refused_words": of_error(session.refused),
        "draft": {
            "steps": [told(step) for step in draft.steps] if draft else [],
            "can_undo": bool(draft and draft.steps),
            "can_redo": bool(draft and draft.can_redo),
        },
        "thresholds": {
            "image": number(now.image),
            "pixel": number(now.pixel),
            "saved_image": number(was.image),
            "saved_pixel": number(was.pixel),
        },
        "band": None if threshold is None else {"low": threshold - REVIEW, "high": threshold + REVIEW},
        "gallery": {**total, "scored": scored, "waiting": max(total["total"] - scored - total["failed"], 0)},
        "counts": counts,
        "region": {"set": bench.has_region(session)},
        "drift": {"compared": bench.scorer.likeness.compared, "latest": bench.scorer.likeness.latest()},
        "types": sorted({one.defect_type for one in view.detector.references if one.kind == "abnormal"}),
    }


def told(step: Step) -> dict[str, Any]:
    """A step of a draft: a line about it, and the same as a key with values, for pages in other languages."""
    return {"id": step.id, "text": step.text, "words": step.words.plain(), "kind": step.kind}


def number(value: float | None) -> float | None:
    """A number, or None where there is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def judged(bench: Workbench, score: float | None, view: View) -> dict[str, Any] | None:
    """A score with its verdict."""
    return None if score is None else {"score": score, "verdict": bench.verdict(score, view)}


def before(bench: Workbench, row: Row, found: Gallery) -> dict[str, Any] | None:
    """What the saved bank says of an image, where that differs."""
    now, was = judged(bench, row.score, found.view), judged(bench, row.saved, found.saved)
    return was if was is not None and was != now else None


def item(bench: Workbench, row: Row, found: Gallery) -> dict[str, Any]:
    """A line of the gallery."""
    one = row.picture
    status = "failed" if one.error else "waiting" if row.score is None else "scored"
    return {
        "id": one.id,
        "name": one.name,
        "status": status,
        "score": row.score,
        "verdict": bench.verdict(row.score, found.view),
        "before": before(bench, row, found),
        "mark": row.mark,
        "error": one.error or None,
        "error_words": of_error(one.error),
    }


def matches(bench: Workbench, row: Row, found: Gallery, wanted: str) -> bool:
    """Whether an image belongs to a filter of the gallery."""
    if wanted == "marked":
        return row.mark is not None
    if wanted == "changed":
        return changed(row, found)
    if wanted == "failed":
        return bool(row.picture.error)
    if wanted == "waiting":
        return row.score is None and not row.picture.error
    return wanted == "all" or bench.verdict(row.score, found.view) == wanted


def changed(row: Row, found: Gallery) -> bool:
    """Whether an image is on the other side of the threshold since the draft."""
    if row.score is None or row.saved is None:
        return False
    return label(row.score, found.view) != label(row.saved, found.saved)


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """Images in one of the orders of the gallery; those without a score last."""
    if sort in ("score", "-score"):
        sign = -1 if sort[0] == "-" else 1
        return sorted(rows, key=lambda row: (row.score is None, sign * (row.score or 0), row.picture.name))
    if sort == "newest":
        return sorted(rows, key=lambda row: -row.picture.number)
    return sorted(rows, key=lambda row: row.picture.name, reverse=sort == "-name")


def prediction(bench: Workbench, one: Picture, found: Prediction, gallery: Gallery) -> dict[str, Any]:
    """All that is said of one image."""
    view, size = gallery.view, one.size or (1, 1)
    row = next(row for row in gallery.rows if row.picture is one)._replace(score=found.score)
    width, height = fitted(size, PICTURE)
    return {
        "id": one.id,
        "name": one.name,
        "width": size[0],
        "height": size[1],
        "picture": {"width": width, "height": height},
        "score": found.score,
        "verdict": bench.verdict(found.score, view),
        "before": before(bench, row, gallery),
        "mark": row.mark,
        **described(bench, found, size, view),
    }


def described(bench: Workbench, found: Prediction, size: tuple[int, int], view: View) -> dict[str, Any]:
    """Regions of a prediction in pixels of the image, and the reference that it is most like."""
    pixel, nearest = view.detector.map_threshold, None
    if (like := found.nearest_reference) is not None:
        one = view.detector._snapshot.compared[like.index]
        nearest = {
            "uid": one.uid, "name": like.name, "kind": like.kind, "defect_type": like.defect_type,
            "similarity": like.similarity,
        }  # fmt: skip
    regions = [] if pixel is None else [one._asdict() for one in outlined(found.map, pixel, size)]
    return {"regions": regions, "nearest": nearest}


def references(bench: Workbench, session: Session) -> list[dict[str, Any]]:
    """All references of a state; those that are in the draft alone are pending."""
    saved = {one.uid for one in bench.saved.references}
    kept = bench.bank(session).with_images()
    return [
        {
            "uid": one.uid,
            "name": one.name,
            "kind": one.kind,
            "type": one.defect_type,
            "active": one.active,
            "date": one.added,
            "author": one.author,
            "localized": one.localized,
            "pending": one.uid not in saved,
            "has_picture": one.uid in kept,
        }
        for one in bench.detector(session).references
    ]


def history(bench: Workbench) -> list[dict[str, Any]]:
    """All saved changes, the newest first, and which of them can be taken back."""
    done = bench.real.history()
    cancelled: set[int] = set()
    for change in reversed(done):
        if change.undoes is not None and change.revision not in cancelled:
            cancelled.add(change.undoes)
    known = {one.revision: (one.action, one.summary) for one in done}
    return [
        {
            **one._asdict(),
            "words": of_change(one.action, one.summary, known),
            "can_undo": one.action != "created" and one.revision not in cancelled,
        }
        for one in reversed(done)
    ]
