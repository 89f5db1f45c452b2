"""Splits of a person's datamodule, of which a run uses copies and leaves them as it found them."""

from __future__ import annotations

from functools import partial
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset

from anomalib_nagl.plugin.reading import SPLITS, served

_HOOK = "setup"  # of a datamodule, wrapped until the next run gets the whole splits back


class BorrowedSplits:
    """Takes the splits of one datamodule for a run, and gives them back when it ends.

    A datamodule that somebody had set up before gets its splits back at once. One that the run itself has set up goes
    on showing what was evaluated, as people look at it afterwards, and is whole again from its next ``setup`` on: the
    next run may be of another model.
    """

    def __init__(self) -> None:
        self._data: AnomalibDataModule | None = None
        self._own: dict[str, AnomalibDataset] = {}
        self._found = False

    def notice(self, data: Any) -> None:
        """Look at a datamodule before a run sets it up."""
        shown = isinstance(getattr(data, "__dict__", {}).get(_HOOK), partial)
        self._found = not shown and any(hasattr(data, f"{name}_data") for name in SPLITS)

    def take(self, data: AnomalibDataModule) -> None:
        """Put copies that read as references are read in the place of all splits, whole ones every time."""
        if self._data is not data:
            self._data = data
            splits = {f"{name}_data": getattr(data, f"{name}_data", None) for name in SPLITS}
            self._own = {name: split for name, split in splits.items() if split is not None}
        for name, split in self._own.items():
            copied = served(split)
            copied.augmentations = getattr(data, name).augmentations
            setattr(data, name, copied)

    def give_back(self) -> None:
        """End what ``take`` began; nothing to do when it was not called."""
        data, own = self._data, self._own
        self._data, self._own = None, {}
        if data is None:
            return
        if self._found:
            _restore(data, own)
        else:
            setattr(data, _HOOK, partial(_setup_whole, data, own))


def _restore(data: AnomalibDataModule, own: dict[str, AnomalibDataset]) -> None:
    for name, split in own.items():
        setattr(data, name, split)


def _setup_whole(data: AnomalibDataModule, own: dict[str, AnomalibDataset], stage: str | None = None) -> None:
    """Stand in for ``setup`` once: give the whole splits back, then do as asked."""
    vars(data).pop(_HOOK, None)
    _restore(data, own)
    data.setup(stage)
