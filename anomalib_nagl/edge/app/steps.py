"""Steps of a draft: what was done to a copy of a bank, to be done again to the bank itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anomalib_nagl.bank.reference import Reference
from anomalib_nagl.bank.transaction import TransactionBank
from anomalib_nagl.edge.app.wording import Words
from anomalib_nagl.io.given import File


@dataclass
class Step(ABC):
    """A step: what it is in words, its kind, its number, and the change of the draft's bank by which it was done."""

    words: Words
    kind: str
    id: int = field(default=0, kw_only=True)
    revision: int = field(default=0, kw_only=True)

    @property
    def text(self) -> str:
        """A line about it."""
        return self.words.text

    @abstractmethod
    def repeat(self, draft: TransactionBank, bank: TransactionBank, keys: dict[str, str]) -> None:
        """Do it to a bank; ``keys`` says how references that were added to the draft are called there.

        EdgeError where it no longer fits.
        """


@dataclass
class Added(Step):
    """A reference was added; ``reference`` is as it was then."""

    reference: Reference

    def repeat(self, draft: TransactionBank, bank: TransactionBank, keys: dict[str, str]) -> None:
        """Add it, with the patches and files that the draft holds."""
        keys[self.reference.uid] = bank.copy_from(draft, self.reference)


@dataclass
class Edited(Step):
    """A field of a reference was changed."""

    uid: str
    action: str
    field_: str
    after: Any

    def repeat(self, draft: TransactionBank, bank: TransactionBank, keys: dict[str, str]) -> None:
        """Change it, wherever it stood."""
        bank.change(keys.get(self.uid, self.uid), self.action, self.field_, self.after)


@dataclass
class Set(Step):
    """Settings were changed; of thresholds, those that are None were not."""

    action: str
    settings: dict[str, Any]

    def repeat(self, draft: TransactionBank, bank: TransactionBank, keys: dict[str, str]) -> None:
        """Change them to what they are in the draft."""
        bank.set_some(self.action, self.text, self.settings)


@dataclass
class Said(Step):
    """An image was said to be good or defective, or nothing of it any more."""

    sha256: str
    name: str
    mark: str | None
    file: File = field(repr=False)

    def repeat(self, draft: TransactionBank, bank: TransactionBank, keys: dict[str, str]) -> None:
        """Say it."""
        bank.mark(self.sha256, self.name, self.mark, self.file)


def repeat_all(steps: Sequence[Step], draft: TransactionBank, bank: TransactionBank) -> dict[str, str]:
    """Do all steps to a bank in one transaction; returns how references of the draft are called there.

    EdgeError, and a bank as it was, where one of them no longer fits.
    """
    keys: dict[str, str] = {}
    with bank.at_once():
        for step in steps:
            step.repeat(draft, bank, keys)
    return keys
