"""What all who look at the page share: the compiled model, its bank, the gallery; and what each of them tries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.bank.transaction import TransactionBank
from anomalib_nagl.bank.verdicts import Rules, decide
from anomalib_nagl.edge.app.draft import Draft
from anomalib_nagl.edge.app.gallery import Gallery, Picture
from anomalib_nagl.edge.app.kept_tokens import KeptTokens
from anomalib_nagl.edge.app.scoring import Scorer, View, view_of
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.windows import Cut, plan_windows

SESSIONS = 64  # that are remembered; those without a draft go first
IDLE = 120.0  # seconds after which nobody looks at a session's screen any more


@dataclass
class Session:
    """Somebody who looks at the page: a draft, once there is one, and the images on the screen."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    draft: Draft | None = None
    view: View | None = None
    screen: list[str] = field(default_factory=list)
    seen: float = 0.0
    tried: int = 0  # the revision on which the draft was tried last
    refused: str = ""  # why the draft does not fit on what somebody else saved


class Workbench:
    """A model with its bank and a gallery; ``room`` is a folder for what is kept while the program runs."""

    def __init__(
        self, model: Path, bank: Path | None, folder: Path | None, room: Path, author: str | None = None
    ) -> None:
        self.model, self.room = model, room
        self.saved = NaglEdge(model, bank=bank, author=author)
        facts = self.saved.compatibility
        self.real = TransactionBank(self.saved.bank, facts, author)
        self.saved_view = view_of(self.saved)
        self.sessions: dict[str, Session] = {}
        self.windows = windows_of(facts)
        self.ending: Callable[[], bool] = lambda: False  # whether the server is about to stop
        self._lock = threading.RLock()
        self.gallery = Gallery(folder, room)
        tokens = KeptTokens(room, (int(facts["grid"][0]) * int(facts["grid"][1]), int(facts["dim"])))
        self.scorer = Scorer(self.gallery, tokens, room, self._views, self._wanted, self._look)
        self.gallery.scan(first=True)
        self._take_kept()

    def start(self) -> None:
        """Begin to score in the background."""
        self.scorer.start()

    def close(self) -> None:
        """End that, and forget all drafts."""
        self.scorer.stop()
        for one in self.sessions.values():
            if one.draft is not None:
                one.draft.close()

    @contextmanager
    def session(self, key: str) -> Iterator[Session]:
        """The session of a key, for one call at a time; a draft follows what others saved as far as it fits."""
        with self._lock:
            if key not in self.sessions:
                self._make_room()
                self.sessions[key] = Session()
            found = self.sessions[key]
        with found.lock:
            found.seen = time.monotonic()
            self.refresh()
            self._follow(found)
            yield found

    def refresh(self) -> None:
        """Take over what somebody else saved."""
        with self._lock:
            if self.saved.changed():
                self.saved.reload()
                self.saved_view = view_of(self.saved)
                self._take_kept()
                self.scorer.changed()

    def view(self, session: Session) -> View:
        """The state that somebody looks at: that of the draft, or what is saved."""
        return self.saved_view if session.view is None else session.view

    def detector(self, session: Session) -> NaglEdge:
        """The detector of that state."""
        return self.saved if session.draft is None else session.draft.detector

    def bank(self, session: Session) -> TransactionBank:
        """The bank of that state."""
        return self.real if session.draft is None else session.draft.bank

    @contextmanager
    def drafting(self, session: Session) -> Iterator[Draft]:
        """A draft to make a step on; without any step left it is given up."""
        if session.draft is None:
            session.draft = Draft(self.saved, self.real, self.room)
        try:
            yield session.draft
        finally:
            if not session.draft.steps and not session.draft.can_redo:
                self.discard(session)
            else:
                session.view, session.tried = view_of(session.draft.detector), 0
            self.scorer.changed()

    def discard(self, session: Session) -> None:
        """Forget a draft."""
        if session.draft is not None:
            session.draft.close()
        session.draft, session.view, session.refused = None, None, ""
        self.scorer.changed()

    def save(self, session: Session) -> None:
        """Keep the steps of a draft in the bank, all or none; EdgeError where one no longer fits."""
        if session.draft is None:
            return
        if session.draft.steps:
            session.draft.save(self.real)
        self.discard(session)
        self.refresh()

    def rules(self, view: View) -> Rules:
        """What decides a verdict in a state."""
        return Rules(view.detector.score_threshold, view.detector.map_threshold)

    def verdict(self, score: float | None, view: View) -> str | None:
        """The verdict on a score; None without a threshold."""
        return None if score is None else decide(score, (), self.rules(view)) or None

    def marks(self, session: Session) -> dict[str, Marked]:
        """The acceptance set by the SHA-256 of the images."""
        return {one.sha256: one for one in self.bank(session).marked()}

    def has_region(self, session: Session) -> bool:
        """Whether only a part of every image is looked at."""
        return self.detector(session).region is not None

    def picture(self, key: str) -> Picture:
        """An image of the gallery; NotThere where there is none."""
        return self.gallery.get(key)

    def _follow(self, session: Session) -> None:
        draft = session.draft
        now = self.saved._snapshot.revision
        if draft is None or now in (draft.base, session.tried):
            return
        session.tried = now
        try:
            draft.follow(self.real)
        except EdgeError as error:
            session.refused = str(error)
        else:
            session.refused = ""
            session.view = view_of(draft.detector)
            self.scorer.changed()

    def _make_room(self) -> None:
        idle = sorted((one.seen, key) for key, one in self.sessions.items() if one.draft is None)
        if len(self.sessions) >= SESSIONS:
            if not idle:
                raise EdgeError(
                    f"found {SESSIONS} drafts that were not saved, expected fewer: save or discard some of them"
                )
            del self.sessions[idle[0][1]]

    def _take_kept(self) -> None:
        """Show the images of the acceptance set that are nowhere else."""
        pictures = self.gallery.all()
        known = {one.sha256 for one in pictures}
        for one in self.real.marked():
            if one.sha256 not in known:
                data = self.real.marked_file(one.sha256).data
                same_size = (picture for picture in pictures if not picture.sha256 and picture.stamp[0] == len(data))
                if not any(picture.hashed() == one.sha256 for picture in same_size):
                    self.gallery.keep(one, data)

    def _recent(self) -> list[Session]:
        with self._lock:
            found = [one for one in self.sessions.values() if time.monotonic() - one.seen < IDLE]
        return sorted(found, key=lambda one: -one.seen)

    def _views(self) -> Sequence[View]:
        views = [one.view for one in self._recent() if one.view is not None]
        return [*views, self.saved_view]

    def _wanted(self) -> Sequence[str]:
        return [key for one in self._recent() for key in one.screen]

    def _look(self) -> None:
        """Look for what others changed: the folder and the bank."""
        came, gone = self.gallery.scan()
        for one in gone:
            self.scorer.forget(one)
        if gone:
            self._take_kept()
        if came or gone:
            self.scorer.version += 1
        self.refresh()


def windows_of(facts: dict[str, Any]) -> dict[str, Any] | None:
    """The windows of a model, and the pixels of its input at which they begin; None where it sees images as a whole."""
    cut, (height, width) = Cut.of(facts), facts["image_size"]
    if cut is None:
        return None
    plan = plan_windows((height, width), cut.window, cut.overlap, height // int(facts["grid"][0]))
    tops, lefts = (sorted(set(plan.corners[:, axis].tolist())) for axis in (0, 1))
    return {**cut.facts(), "size": list(plan.window), "count": len(plan.corners), "tops": tops, "lefts": lefts}


def facts_of(bench: Workbench, thresholds: bool) -> dict[str, Any]:
    """What a page shows of a model."""
    facts = bench.saved.compatibility
    return {
        "name": bench.model.stem,
        "backbone": str(facts.get("backbone", "")),
        "variant": str(facts.get("variant", "")),
        "input": list(facts["image_size"]),
        "grid": list(facts["grid"]),
        "has_thresholds": thresholds,
        "windows": bench.windows,
    }
