"""Scores of a gallery under several states of a bank at once, found in the background from kept tokens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.border import THRESHOLDS
from anomalib_nagl.bank.nearest import OwnedPatches
from anomalib_nagl.edge.app.gallery import Gallery, Picture
from anomalib_nagl.edge.app.kept_tokens import KeptTokens
from anomalib_nagl.edge.app.likeness import Likeness
from anomalib_nagl.edge.app.pictures import THUMBNAIL, decode, jpeg
from anomalib_nagl.edge.detector import NaglEdge, Prediction
from anomalib_nagl.edge.sharing import sharing

BATCH = 16  # images between two looks at what is on a screen
BOARDS = 128  # states of a bank whose scores are kept: more than there are sessions
MAPS = 64 << 20  # bytes of the maps that are kept
SCAN_EVERY = 1.0  # seconds


class View(NamedTuple):
    """A state of a bank: a detector that stays as it is, and a key that is the same for states that score alike.

    ``plain`` gives the same scores and looks for no nearest reference, which a gallery does not show.
    """

    detector: NaglEdge
    key: Hashable
    plain: NaglEdge


def view_of(detector: NaglEdge) -> View:
    """The state of a detector at this moment; its key leaves out thresholds, which change no score."""
    frozen = sharing(detector)
    bank = frozen._snapshot
    settings = {name: value for name, value in bank.settings.items() if name not in (THRESHOLDS, "calibration")}
    compared = sorted(
        (one.kind, one.sha256, one.mask_sha256 or ("" if one.kind == "normal" else one.uid), one.localized)
        for one in bank.compared
    )
    key = hashlib.sha256(json.dumps([compared, settings], sort_keys=True).encode()).hexdigest()
    plain = sharing(frozen)
    nobody = OwnedPatches(np.empty((0, frozen.compatibility["dim"]), np.float32), np.empty(0, np.int64))
    plain._state = replace(frozen._state, owned=nobody)
    return View(frozen, key, plain)


class Scores:
    """Scores of images by id under states of a bank by key; those that nobody looked at for long are given up."""

    def __init__(self) -> None:
        self._boards: OrderedDict[Hashable, dict[str, float]] = OrderedDict()
        self._predictions: OrderedDict[tuple[Hashable, str], Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def board(self, key: Hashable) -> dict[str, float]:
        """Scores under a state."""
        with self._lock:
            board = self._boards.setdefault(key, {})
            self._boards.move_to_end(key)
            while len(self._boards) > BOARDS:
                self._boards.popitem(last=False)
            return board

    def prediction(self, key: Hashable, image: str) -> Prediction | None:
        """A map that is kept."""
        with self._lock:
            return self._predictions.get((key, image))

    def keep(self, key: Hashable, image: str, found: Prediction, whole: bool) -> None:
        """Keep a score and, where that is wanted, the ``whole`` prediction with its map."""
        self.board(key)[image] = found.score
        if whole:
            with self._lock:
                self._predictions[key, image] = found
                self._predictions.move_to_end((key, image))
                each = found.map.nbytes + (0 if found.mask is None else found.mask.nbytes)
                while len(self._predictions) > max(MAPS // each, 1):
                    self._predictions.popitem(last=False)

    def forget(self, image: str) -> None:
        """Forget all of an image."""
        with self._lock:
            for board in self._boards.values():
                board.pop(image, None)
            for place in [place for place in self._predictions if place[1] == image]:
                del self._predictions[place]


class Scorer:
    """Encodes and scores the images of a gallery, at once where somebody waits, else in a thread of its own.

    ``views`` gives the states to score by, the most wanted first; ``wanted`` the ids of images on screens.
    """

    def __init__(
        self,
        gallery: Gallery,
        tokens: KeptTokens,
        room: Path,
        views: Callable[[], Sequence[View]],
        wanted: Callable[[], Sequence[str]],
        scan: Callable[[], None],
    ) -> None:
        self.gallery, self.scores, self._tokens, self._room = gallery, Scores(), tokens, room
        self.likeness = Likeness()
        self._views, self._wanted, self._scan = views, wanted, scan
        self.version = 0  # rises with everything that a page may want to know
        self._wake, self._stop = threading.Event(), threading.Event()
        self._waiting = 0
        self._free = threading.Condition()
        self._encoding = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gallery", daemon=True)

    def start(self) -> None:
        """Begin in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End it; an image in the making is finished."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def changed(self) -> None:
        """Look again at what is to be done."""
        self.version += 1
        self._wake.set()

    def wake(self) -> None:
        """Look at once what is on the screens."""
        self._wake.set()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the background wait while somebody else does."""
        with self._free:
            self._waiting += 1
        try:
            yield
        finally:
            with self._free:
                self._waiting -= 1
                self._free.notify_all()

    def predict(self, one: Picture, view: View) -> Prediction:
        """The prediction of an image, kept or made now; EdgeError or OSError where the image will not do."""
        found = self.scores.prediction(view.key, one.id)
        if found is None:
            found = view.detector.score(self.tokens(one, view.detector))
            self.scores.keep(view.key, one.id, found, True)
            self.version += 1
        return found

    def tokens(self, one: Picture, detector: NaglEdge) -> NDArray[np.float32]:
        """Tokens of an image, kept or encoded now."""
        kept = self._tokens.get(one.number)
        if kept is not None:
            return kept
        with self._encoding:
            kept = self._tokens.get(one.number)
            return self._encode(one, detector) if kept is None else kept

    def thumbnail(self, one: Picture) -> bytes:
        """A small JPEG file of an image."""
        path = self._small(one)
        return path.read_bytes() if path.is_file() else jpeg(decode(one.read(), one.name), THUMBNAIL)

    def _small(self, one: Picture) -> Path:
        return self._room / f"small-{one.number}"

    def forget(self, one: Picture) -> None:
        """Forget an image that went away or was changed."""
        self._tokens.forget(one.number)
        self.scores.forget(one.id)
        self.likeness.forget(one.id)
        self._small(one).unlink(missing_ok=True)

    def _encode(self, one: Picture, detector: NaglEdge) -> NDArray[np.float32]:
        data = one.read()
        one.sha256 = hashlib.sha256(data).hexdigest()
        self.gallery.settle(one)
        pixels = decode(data, one.name)
        one.size = (pixels.shape[1], pixels.shape[0])
        tokens = detector.encode(pixels)
        kept = self._tokens.put(one.number, tokens)
        with contextlib.suppress(OSError):  # without room it is made anew when it is asked for
            whole = self._small(one).with_suffix(".part")  # nobody is to see half of it
            whole.write_bytes(jpeg(pixels, THUMBNAIL))
            whole.replace(self._small(one))
        one.encoded = True
        # Scored by what is kept: an image is not to change its score when it is looked at again.
        again = self._tokens.get(one.number) if kept else None
        tokens = tokens if again is None else again
        self.likeness.note(one, tokens)
        return tokens

    def _run(self) -> None:
        looked = 0.0
        self._warm_up()
        self._compare()
        while not self._stop.is_set():
            if time.monotonic() - looked > SCAN_EVERY:
                with contextlib.suppress(OSError, ValueError):  # a bank or folder that is out of reach for a while
                    self._scan()
                looked = time.monotonic()
            self._wake.clear()
            if not self._some() and not self._compare():
                self._wake.wait(SCAN_EVERY)

    def _warm_up(self) -> None:
        """Compile now what the first lesson would have to wait for."""
        detector = self._views()[-1].detector
        height, width = detector.compatibility["image_size"]
        detector._encoder.encode(np.zeros((3, int(height), int(width)), np.float32))

    def _some(self) -> bool:
        """Score a few images; False where all is done."""
        jobs = list(self._jobs())
        for one, view in jobs:
            self._let_others()
            if self._stop.is_set():
                return False
            self._score(one, view)
            if self._wake.is_set():
                break
        return bool(jobs)

    def _let_others(self) -> None:
        """Wait as long as somebody else does."""
        with self._free:
            while self._waiting and not self._stop.is_set():
                self._free.wait(0.5)

    def _compare(self) -> bool:
        """See how alike a few images are to the saved references, once all are scored; False where all is done."""
        detector = self._views()[-1].detector
        with contextlib.suppress(OSError, ValueError):  # a bank that is out of reach for a while
            self.version += self.likeness.follow(detector)
        wanted = (one for one in self.gallery.all() if one.encoded and not one.error and self.likeness.wants(one))
        jobs = list(islice(wanted, BATCH))
        for one in jobs:
            self._let_others()
            if self._stop.is_set():
                return False
            with self._noting(one):
                self.likeness.note(one, self.tokens(one, detector))
            if self._wake.is_set():
                break
        return bool(jobs)

    def _score(self, one: Picture, view: View) -> None:
        with self._noting(one):
            found = view.plain.score(self.tokens(one, view.detector))
            self.scores.keep(view.key, one.id, found, False)

    @contextmanager
    def _noting(self, one: Picture) -> Iterator[None]:
        """Note what goes wrong with an image: one bad image never stops the others."""
        try:
            yield
        except Exception as error:
            one.error = " ".join(str(error).split()) or type(error).__name__
        self.version += 1

    def _jobs(self) -> Iterator[tuple[Picture, View]]:
        """What is on a screen first, then what is encoded already, then the rest."""
        views, pictures = self._views(), [one for one in self.gallery.all() if not one.error]
        known, left = {one.id: one for one in pictures}, BATCH
        for round_ in ([known[key] for key in self._wanted() if key in known], _encoded(pictures), pictures):
            for view in views:
                board = self.scores.board(view.key)
                for one in round_:
                    if one.id not in board:
                        yield one, view
                        left -= 1
                        if not left:
                            return
            if left < BATCH:
                return


def _encoded(pictures: Iterable[Picture]) -> list[Picture]:
    return [one for one in pictures if one.encoded]
