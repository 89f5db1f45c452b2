"""A draft of a bank: lessons and settings that are tried on a copy, taken back and done again, and saved at once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.border import THRESHOLDS
from anomalib_nagl.bank.reference import Reference
from anomalib_nagl.bank.transaction import TransactionBank
from anomalib_nagl.edge.app.steps import Added, Edited, Said, Set, Step, repeat_all
from anomalib_nagl.edge.app.wording import Words
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.edge.sharing import sharing
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File

ACTIONS = {"active": {True: "on", False: "off"}, "name": "rename", "defect_type": "type", "removed": "remove"}


class Draft:
    """A copy of the bank of ``saved`` in the folder ``room``, and the steps that were made on it.

    Every step is made by the same code as ``NaglEdge`` makes it. For one thread at a time.
    """

    def __init__(self, saved: NaglEdge, real: TransactionBank, room: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=room, prefix="draft-")
        self.bank = self._copy(real, saved.compatibility)
        self.base = self.bank.revision()
        self.detector = sharing(saved, self.bank)
        self.steps: list[Step] = []
        self._undone: list[Step] = []
        self._count = 0

    def close(self) -> None:
        """Forget everything."""
        self._folder.cleanup()

    @property
    def can_redo(self) -> bool:
        """Whether a step that was taken back can be done again."""
        return bool(self._undone)

    def teach(self, image: Path, mask: NDArray[np.bool_], name: str, kind: str) -> None:
        """Learn a defect."""
        name = self._free(name)
        words = Words.of("teach", name=name, type=kind)
        self._add(lambda: self.detector.add_abnormal(image, mask, name, kind), words)

    def fine(self, image: Path, mask: NDArray[np.bool_], name: str) -> None:
        """Learn that a region is normal; the rest of the image is not learnt."""
        name = self._free(name)
        self._add(lambda: self.detector.add_normal(image, name, mask), Words.of("fine", name=name))

    def edit(self, uid: str, field: str, after: Any) -> None:
        """Change a field of a reference (``bank.history.FIELDS``)."""
        one = next((one for one in self.detector.references if one.uid == uid), None)
        if one is None:
            raise EdgeError(f"found no reference {uid[:40]!r}, expected one of the list: load it again")
        action: Any = ACTIONS[field]
        action = action[bool(after)] if isinstance(action, dict) else action
        new = {"new": str(after)} if action in ("rename", "type") else {}
        step = Edited(Words.of(action, name=one.name, **new), "reference", uid, action, field, after)
        with self._stepping(step):
            self.bank.change(uid, action, field, after)
            self.detector.reload()

    def set(self, words: Words, kind: str, action: Callable[[NaglEdge], object]) -> None:
        """Change settings by a method of the detector."""
        before = dict(self.detector._snapshot.settings)
        step = Set(words, kind, kind, {})
        with self._stepping(step):
            action(self.detector)
        after = self.detector._snapshot.settings
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        step.settings = {name: after.get(name) for name in names}
        if THRESHOLDS in step.settings:
            pairs = zip(before.get(THRESHOLDS, [None, None]), after[THRESHOLDS], strict=True)
            step.settings[THRESHOLDS] = [None if old == new else new for old, new in pairs]

    def mark(self, sha256: str, name: str, said: str | None, file: File) -> None:
        """Say what an image is; it is kept with the bank."""
        words = Words.of("unmarked" if said is None else said, name=name)
        with self._stepping(Said(words, "mark", sha256, name, said, file)):
            self.bank.mark(sha256, name, said, file)
            self.detector.reload()

    def undo(self) -> None:
        """Take the last step back."""
        if not self.steps:
            raise EdgeError("found no step to take back, expected one in the draft: see the history for what is saved")
        step = self.steps[-1]
        self.detector.undo(step.revision)
        step.revision = self.bank.revision()
        self._undone.append(self.steps.pop())

    def redo(self) -> None:
        """Do the step again that was taken back last."""
        if not self._undone:
            raise EdgeError("found no step that was taken back, expected one to do again: undo one first")
        step = self._undone[-1]
        self.detector.undo(step.revision)
        step.revision = self.bank.revision()
        self.steps.append(self._undone.pop())

    def save(self, real: TransactionBank) -> None:
        """Do all steps to the bank as it is now, in one transaction; EdgeError where one no longer fits."""
        repeat_all(self.steps, self.bank, real)

    def follow(self, real: TransactionBank) -> None:
        """Begin again on the bank as it is now, which somebody else changed, with the same steps.

        Those that change nothing any more fall away. EdgeError, and the draft as it was, where one no longer fits.
        """
        bank = self._copy(real, self.detector.compatibility)
        base, old = bank.revision(), self.bank
        made: list[tuple[Step, int]] = []
        try:
            keys: dict[str, str] = {}
            for step in self.steps:
                before = bank.revision()
                step.repeat(old, bank, keys)
                made += [(step, after)] if (after := bank.revision()) != before else []
        except EdgeError:
            bank.path.unlink()
            raise
        for step, revision in made:
            step.revision = revision
            if isinstance(step, Added):
                step.reference = _called(step.reference, keys)
            elif isinstance(step, Edited):
                step.uid = keys.get(step.uid, step.uid)
        self.steps = [step for step, _ in made]
        self.bank, self.base, self._undone = bank, base, []
        self.detector = sharing(self.detector, bank)
        old.path.unlink()

    def _copy(self, real: TransactionBank, facts: dict[str, Any]) -> TransactionBank:
        with tempfile.NamedTemporaryFile(dir=self._folder.name, suffix=".bank", delete=False) as file:
            path = Path(file.name)
        real.copy_to(path)
        return TransactionBank(path, facts, real.author.name)

    def _add(self, learn: Callable[[], object], words: Words) -> None:
        known = {one.uid for one in self.detector.references}
        step = Added(words, words.key, Reference("normal", "none"))
        with self._stepping(step):
            learn()
        (step.reference,) = (one for one in self.detector.references if one.uid not in known)

    @contextlib.contextmanager
    def _stepping(self, step: Step) -> Iterator[None]:
        """Note a step, if it changes anything."""
        before = self.bank.revision()
        yield
        step.revision = self.bank.revision()
        if step.revision != before:
            self._count += 1
            step.id = self._count
            self.steps.append(step)
            self._undone = []

    def _free(self, name: str) -> str:
        """The name, or one with a number behind it."""
        taken = {one.name for one in self.detector.references}
        free, count = name, 2
        while free in taken:
            free, count = f"{name} ({count})", count + 1
        return free


def _called(reference: Reference, keys: dict[str, str]) -> Reference:
    return replace(reference, uid=keys.get(reference.uid, reference.uid))
