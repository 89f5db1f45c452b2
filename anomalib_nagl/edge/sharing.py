"""Several detectors on one compiled model: each with a bank of its own, or with what a bank held at a moment."""

from __future__ import annotations

import threading

from anomalib_nagl.bank.bank_file import BankFile
from anomalib_nagl.edge.detector import NaglEdge


def sharing(detector: NaglEdge, bank: BankFile | None = None) -> NaglEdge:
    """Another detector on what this one has compiled: with another bank, or with what this one knows now.

    EdgeError for a bank of another model.
    """
    other = object.__new__(NaglEdge)
    vars(other).update(vars(detector), _change=threading.Lock(), _follow=False)
    if bank is not None:
        other._bank = bank
        other.reload()
    return other
