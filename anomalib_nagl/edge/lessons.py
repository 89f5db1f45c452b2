"""What a detector can be taught, and what can be taken back: every change is kept in the bank at once."""

from __future__ import annotations

import threading
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.history import Change
from anomalib_nagl.bank.interest import as_drawn, everywhere
from anomalib_nagl.bank.reference import Lesson, Reference
from anomalib_nagl.bank.views import view, views_of
from anomalib_nagl.edge.decisions import Decisions
from anomalib_nagl.edge.reference_encoder import ReferenceEncoder
from anomalib_nagl.io import given
from anomalib_nagl.io.arrays import as_image, as_mask, as_region, content_hash
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given_paths import as_path

Floats = NDArray[np.float32]


class Lessons(Decisions):
    """The half of ``NaglEdge`` that changes references. Every method is effective at the next prediction."""

    _encoder: ReferenceEncoder
    _change: threading.Lock

    @property
    @abstractmethod
    def compatibility(self) -> dict[str, Any]:
        """Facts of the model."""

    @property
    @abstractmethod
    def references(self) -> tuple[Reference, ...]:
        """The images that the bank knows."""

    @property
    @abstractmethod
    def patches(self) -> ReferencePatches:
        """Their patches, as they are compared with; to be read while ``_change`` is held."""

    def add_normal(self, image: Any, name: str | None = None, region: Any = None, keep_image: bool = True) -> None:
        """Compare with one more normal image, or with that part of it that ``region`` (H, W) marks.

        A region is for a false alarm on a part that has a defect elsewhere. ``keep_image`` keeps the image in the bank,
        from which it can be encoded again for another model.
        """
        kind = "normal" if region is None else "region"
        self._add(Reference(kind, self._named(name, image), "good"), image, region, keep_image)

    def add_abnormal(
        self,
        image: Any,
        mask: Any = None,
        name: str | None = None,
        defect_type: str = "defect",
        keep_image: bool = True,
    ) -> None:
        """Learn a defect from an image.

        ``mask`` (H, W) is non-zero on the defect, or the path of a file (``read_mask``); without one the patches count
        that deviate most from the normal references (``bank.patch_masks``). Raises EdgeError when the name is
        taken, when the mask is empty or of another size, or when an image without a mask comes before any normal one.
        """
        if not self._manifest["head_trained"]:
            warnings.warn(
                "the head of this model is untrained: abnormal references add noise; export a trained one", stacklevel=2
            )
        self._add(Reference("abnormal", self._named(name, image), defect_type), image, mask, keep_image)

    def remove(self, name: str) -> None:
        """Forget the reference of this name; EdgeError if there is none, or if no normal patch would be left."""
        self._bank.remove(name)
        self.reload()

    def rename(self, name: str, new: str) -> None:
        """Give a reference another name; EdgeError if that is taken."""
        self._bank.rename(name, new)
        self.reload()

    def switch(self, name: str, active: bool) -> None:
        """Compare with a reference or leave it out; it stays in the bank."""
        self._bank.switch(name, active)
        self.reload()

    @property
    def region(self) -> NDArray[np.bool_] | None:
        """Where the detector looks, true in (H, W) of the network input; None where that is everywhere."""
        found = self.patches.region  # an array of the present state, which nobody changes
        return None if everywhere(found) else found > 0

    def set_region(self, mask: Any) -> None:
        """Look only where ``mask`` is not zero, an array (h, w) or image file of any size; None looks everywhere again.

        It is stretched to the network input and stays where it was drawn: for parts that move it does not. Scores, maps
        and outlines are of what lies in it, and of references only that counts. Scales stay, as with a change of
        references: ``calibrate`` finds them anew within it. EdgeError for a mask that marks nothing, and where no
        normal patch is left.
        """
        height, width = self.compatibility["image_size"]
        drawn = None if mask is None else as_region(mask)
        self._bank.set_region(as_drawn(drawn, (int(height), int(width))))
        self.reload()

    def undo(self, revision: int | None = None) -> Change:
        """Take back a change of the history: the last one of this detector or, before it made any, of its author.

        A later change of somebody else stays. Returns the change that was taken back; EdgeError if there is none, or if
        what it changed has been changed again since.
        """
        change = self._bank.undo(revision)
        self.reload()
        return change

    def history(self) -> list[Change]:
        """All changes of the bank, the oldest first."""
        return self._bank.history()

    def lesson(self, name: str) -> Lesson:
        """All that the bank keeps of a reference: facts, patches, and files, which ``io.given.read`` reads."""
        return self._bank.lesson(name)

    def save(self, path: str | Path, images: bool = True) -> None:
        """Write references and thresholds to another bank in one step, with the images or without.

        What was removed and the history are left out.
        """
        self._bank.save(as_path(path, "a reference bank"), images)

    def load(self, path: str | Path) -> None:
        """Replace references and thresholds by those of another bank; EdgeError unless it was made for this model."""
        self._bank.load(as_path(path, "a reference bank"))
        self.reload()

    def add_all(
        self, action: str, lessons: Sequence[Lesson], settings: Mapping[str, Any], marked: Path | None = None
    ) -> None:
        """Add references that are encoded, change settings, and take over what a bank marks, in one change."""
        self._bank.add_all(action, lessons, settings, marked)
        self.reload()

    def encode_again(self, reference: Reference, decoded: given.Decoded, files: Mapping[str, given.File]) -> Lesson:
        """Encode a reference from its kept files."""
        return self._lesson(reference, decoded, files)

    def _add(self, reference: Reference, image: Any, mask: Any, keep_image: bool) -> None:
        if reference.name in {one.name for one in self.references}:
            raise EdgeError(
                f"found a reference named {reference.name!r} already, expected another name: remove it first"
            )
        picture = as_image(image)
        marks = None if mask is None else as_mask(mask, image, picture.shape[1:], reference.name)
        files = given.keep(image, mask) if keep_image else {}
        self.add_all("add", [self._lesson(reference, given.Decoded(picture, marks), files)], {})

    def _lesson(self, reference: Reference, decoded: given.Decoded, files: Mapping[str, given.File]) -> Lesson:
        """Encode an image for the bank; nobody waits for that."""
        picture, marks = decoded
        views, known = views_of(self.compatibility), None
        if marks is not None and reference.kind != "normal" and self._encoder.by_windows:
            seen, marked, known = self._touched(reference.kind, picture, marks, views)
        else:
            seen = [self._encoder.encode(np.ascontiguousarray(view(picture, number))) for number in views]
            with self._change, self._bank.read_at_once():
                marked = self._encoder.patch_mask(reference.kind, seen[0], marks, self.patches)
        described = replace(
            reference,
            sha256=content_hash(picture),
            mask_sha256="" if marks is None else content_hash(marks[None]),
            localized=reference.kind == "abnormal" and marks is not None and not marked.all(),
        )
        grid = self.compatibility["grid"]
        size = (int(grid[0]), int(grid[1]))
        return Lesson.of(described, np.concatenate(seen), marked, size, dict(files), views, known)

    def _touched(
        self, kind: str, picture: Any, marks: Any, views: tuple[int, ...]
    ) -> tuple[list[Floats], Floats, NDArray[np.bool_]]:
        """Tokens (M, C) of each view as far as its windows hold a marked patch, the mask (M,), what is known (V * M,).

        A mask without a patch, as of a shifted grid, has all windows seen.
        """
        marked = self._encoder.patch_mask(kind, np.empty((0, 0), np.float32), marks, self.patches)
        wanted = (marked > 0 if marked.any() else np.ones(len(marked), bool)).reshape(self.compatibility["grid"])
        found = [
            self._encoder.encode_touched(
                np.ascontiguousarray(view(picture, number)), np.ascontiguousarray(view(wanted, number)).reshape(-1)
            )
            for number in views
        ]
        return [tokens for tokens, _ in found], marked, np.concatenate([known for _, known in found])

    def _named(self, name: str | None, image: Any) -> str:
        if name is not None:
            return name
        if isinstance(image, str | Path):
            return Path(image).as_posix()
        taken = {one.name for one in self.references}
        return next(text for i in range(len(taken) + 1) if (text := f"reference {i}") not in taken)
