"""The calls of the page and of other clients: each is a function of a body and a session, and returns plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from anomalib_nagl.edge.app import answers
from anomalib_nagl.edge.app.gallery import NotThere, Picture
from anomalib_nagl.edge.app.outlines import suggest
from anomalib_nagl.edge.app.pictures import PICTURE, as_data, decode, enlarge, fitted, grey_png, read_mask
from anomalib_nagl.edge.app.scoring import View
from anomalib_nagl.edge.app.wording import Words
from anomalib_nagl.edge.app.workbench import Session, Workbench
from anomalib_nagl.edge.detector import Prediction
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File

Body = Mapping[str, Any]


def looked_at(bench: Workbench, key: str, session_key: str, saved: bool = False) -> tuple[Picture, Prediction, View]:
    """An image, its prediction in the state of a session or as saved, and that state."""
    one = bench.picture(key)
    with bench.session(session_key) as session:
        view = bench.saved_view if saved else bench.view(session)
        session.screen = [key, *(other for other in session.screen if other != key)][:200]
    with bench.scorer.first():
        return one, bench.scorer.predict(one, view), view


def prediction(bench: Workbench, key: str, session_key: str) -> dict[str, Any]:
    """All that is said of an image."""
    one, found, _ = looked_at(bench, key, session_key)
    with bench.session(session_key) as session:
        return answers.prediction(bench, one, found, answers.rows_of(bench, session))


def suggestion(bench: Workbench, key: str, session_key: str, body: Body) -> dict[str, Any]:
    """The region that deviates most at a click, as a mask of the picture."""
    one, found, _ = looked_at(bench, key, session_key)
    size = one.size or (1, 1)
    click = None
    if body.get("x") is not None and body.get("y") is not None:
        click = (_number(body, "x") / size[0], _number(body, "y") / size[1])
        if not (0 <= click[0] <= 1 and 0 <= click[1] <= 1):
            raise EdgeError(f"found a click at {body['x']}, {body['y']}, expected a place in the image")
    picture = fitted(size, PICTURE)
    mask = suggest(found.map, picture, click)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    wide, tall = size[0] / picture[0], size[1] / picture[1]
    box = [columns[0] * wide, rows[0] * tall, (columns[-1] - columns[0] + 1) * wide, (rows[-1] - rows[0] + 1) * tall]
    return {"mask": as_data(grey_png(mask)), "box": [round(float(side), 1) for side in box]}


def teach(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Learn a defect in a draft; returns what becomes of the image."""
    return _lesson(bench, session, body, fine=False)


def fine(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Learn in a draft that a region is normal; returns what becomes of the image."""
    return _lesson(bench, session, body, fine=True)


def _lesson(bench: Workbench, session: Session, body: Body, fine: bool) -> dict[str, Any]:
    one = bench.picture(_text(body, "image"))
    with bench.scorer.first():
        view = bench.view(session)
        was = bench.scorer.predict(one, view).score
        size = one.size or decode(one.read(), one.name).shape[1::-1]
        mask = read_mask(body.get("mask"), (int(size[0]), int(size[1])))
        name = _text(body, "name", PurePath(one.name).stem)
        kind = _text(body, "type", "defect")
        with bench.drafting(session) as draft:
            if fine:
                draft.fine(one.inside(), mask, name)
            else:
                draft.teach(one.inside(), mask, name, kind)
        now = bench.scorer.predict(one, bench.view(session)).score
        return {
            "step": session.draft.steps[-1].id if session.draft else None,
            "before": answers.judged(bench, was, view),
            "after": answers.judged(bench, now, bench.view(session)),
        }


def mark(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Say in a draft what an image is."""
    one = bench.picture(_text(body, "image"))
    data = one.read()
    one.sha256 = hashlib.sha256(data).hexdigest()
    decode(data, one.name)  # what is kept can be read again
    said = body.get("mark")
    if said is not None and not isinstance(said, str):
        raise EdgeError(f"found the mark {str(said)[:40]!r}, expected good, defective, or null")
    with bench.drafting(session) as draft:
        draft.mark(one.sha256, one.name, said, File("application/octet-stream", data))
    return answers.state(bench, session)


def thresholds(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Decide elsewhere in a draft."""
    image, pixel = (None if body.get(name) is None else _number(body, name) for name in ("image", "pixel"))
    said = {name: f"{value:g}" for name, value in (("image", image), ("pixel", pixel)) if value is not None}
    words = Words("thresholds" if len(said) != 1 else f"thresholds.{next(iter(said))}", said)
    with bench.drafting(session) as draft:
        draft.set(words, "thresholds", lambda one: one.set_thresholds(image, pixel))
    return answers.state(bench, session)


def calibrate(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Find the scales anew in a draft."""
    with bench.scorer.first(), bench.drafting(session) as draft:
        draft.set(Words.of("calibrate"), "calibrate", lambda one: one.calibrate())
    return answers.state(bench, session)


def region(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Look only where a mask is white, or everywhere again."""
    drawn = None
    if body.get("mask") is not None:
        one = bench.picture(_text(body, "image"))
        size = one.size or decode(one.read(), one.name).shape[1::-1]
        drawn = read_mask(body["mask"], (int(size[0]), int(size[1])))
    words = Words.of("region.all") if drawn is None else Words.of("region", part=f"{drawn.mean():.0%}")
    with bench.scorer.first(), bench.drafting(session) as draft:
        draft.set(words, "region", lambda one: one.set_region(drawn))
    return answers.state(bench, session)


def shown_region(bench: Workbench, session: Session, key: str) -> bytes:
    """Where is looked, white in a PNG of the size of an image's picture; NotThere where that is everywhere."""
    one, found = bench.picture(key), bench.detector(session).region
    if found is None:
        raise NotThere("found no region of interest, expected one that was drawn: everything is looked at")
    size = one.size or decode(one.read(), one.name).shape[1::-1]
    return grey_png(enlarge(found, fitted((int(size[0]), int(size[1])), PICTURE)))


def reference(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Switch, rename, retype or remove a reference in a draft."""
    uid = _text(body, "uid")
    with bench.drafting(session) as draft:
        if body.get("remove") is True:
            draft.edit(uid, "removed", 1)
        if isinstance(body.get("active"), bool):
            draft.edit(uid, "active", int(body["active"]))
        for name, field in (("name", "name"), ("type", "defect_type")):
            if body.get(name) is not None:
                draft.edit(uid, field, _text(body, name))
    return answers.state(bench, session)


def undo(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Take the last step of a draft back."""
    with bench.drafting(session) as draft:
        draft.undo()
    return answers.state(bench, session)


def redo(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Do it again."""
    with bench.drafting(session) as draft:
        draft.redo()
    return answers.state(bench, session)


def save(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Keep a draft in the bank."""
    bench.save(session)
    return answers.state(bench, session)


def discard(bench: Workbench, session: Session, body: Body) -> dict[str, Any]:
    """Forget a draft."""
    bench.discard(session)
    return answers.state(bench, session)


def gallery(bench: Workbench, session: Session, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of the gallery; its images are scored first."""
    found = answers.rows_of(bench, session)
    search = query.get("search", "").casefold()
    wanted = query.get("filter", "all")
    rows = [row for row in found.rows if search in row.picture.name.casefold()]
    rows = [row for row in rows if answers.matches(bench, row, found, wanted)]
    offset, limit = _whole(query, "offset", 0), _whole(query, "limit", 60)
    page = answers.ordered(rows, query.get("sort", "name"))[offset : offset + min(limit, 500)]
    screen = [row.picture.id for row in page]
    if screen != session.screen:
        session.screen = screen
        bench.scorer.wake()
    items = [answers.item(bench, row, found) for row in page]
    return {"total": len(rows), "epoch": str(found.view.key)[:12], "items": items}


def _text(body: Body, name: str, otherwise: str | None = None) -> str:
    found = body.get(name) or otherwise
    if not isinstance(found, str):
        raise EdgeError(f"found {str(found)[:40]!r} as {name}, expected a text: see /openapi.json")
    return found


def _number(body: Body, name: str) -> float:
    found = body.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise EdgeError(f"found {str(found)[:40]!r} as {name}, expected a number: see /openapi.json")
    return float(found)


def _whole(query: Mapping[str, str], name: str, otherwise: int) -> int:
    found = query.get(name, str(otherwise))
    if not (found.isascii() and found.isdigit() and len(found) < 10):
        raise EdgeError(f"found {found[:40]!r} as {name}, expected a whole number of 0 or more")
    return int(found)


Call = Callable[[Workbench, Session, Body], dict[str, Any]]
DRAFT: dict[str, Call] = {
    "teach": teach, "fine": fine, "mark": mark, "thresholds": thresholds, "calibrate": calibrate,
    "region": region,
    "reference": reference, "undo": undo, "redo": redo, "save": save, "discard": discard,
}  # fmt: skip
