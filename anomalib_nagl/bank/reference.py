"""A reference: what is known of an image that queries are compared with, and what is written down of a new one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.abnormal import take_apart
from anomalib_nagl.bank.pools import ArrayPool
from anomalib_nagl.bank.views import origins
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.given import File

# The pools of a reference of each kind; of an abnormal one the abnormal patches, those away from them, those between.
ROLES = {"normal": ("normal",), "region": ("normal",), "abnormal": ("marked", "away", "near")}
WHOLE = "whole"  # the window that is the full image


@dataclass(frozen=True)
class Reference:
    """One image that a detector compares with.

    ``kind`` is ``normal``, ``abnormal``, or ``region``: normal where its mask says so. ``sha256`` is that of the 8-bit
    pixels, ``mask_sha256`` that of the mask, both empty where there is none. ``localized`` are abnormal images whose
    mask was given and is not the full image. One that is not ``active`` is kept and not compared with. ``added`` is the
    time (UTC, ISO 8601) and ``author`` who added it.
    """

    kind: str
    name: str
    defect_type: str = ""
    sha256: str = ""
    mask_sha256: str = ""
    localized: bool = False
    active: bool = True
    added: str = ""
    author: str = ""
    uid: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not be listed or found again."""
        if self.kind not in ROLES:
            raise EdgeError(f"found a reference of kind {self.kind!r}, expected one of {', '.join(ROLES)}")
        check_text("name", self.name)
        check_text("defect type", self.defect_type, empty=True)
        for what, text in (("author", self.author), ("time", self.added), ("key", self.uid)):
            check_text(what, text, empty=True)
        for digest in (self.sha256, self.mask_sha256):
            if not isinstance(digest, str) or not re.fullmatch("([0-9a-f]{64})?", digest):
                raise EdgeError(
                    f"found hash {str(digest)[:40]!r} of reference {self.name!r}, expected a SHA-256: restore the bank "
                    "from a copy"
                )


def check_text(what: str, text: object, empty: bool = False) -> None:
    """Raise EdgeError unless this is a line of text of at most 1000 characters."""
    if not isinstance(text, str) or len(text) > 1000 or (not text.strip() and not empty) or not text.isprintable():
        kind = "" if isinstance(text, str) else f" ({type(text).__name__})"
        raise EdgeError(
            f"found {what} {str(text)[:40]!r}{kind}, expected a line of text of 1 to 1000 characters: choose another"
        )


@dataclass(frozen=True)
class Lesson:
    """A reference to be added: its facts, its patches by role, and its files.

    Roles are ``normal`` for a normal image or region, ``marked``, ``away`` and ``near`` for an abnormal one.
    """

    reference: Reference
    pools: dict[str, ArrayPool] = field(repr=False)
    files: dict[str, File] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        reference: Reference,
        tokens: NDArray[np.float32],
        marked: NDArray[np.float32],
        grid: tuple[int, int],
        files: dict[str, File] | None = None,
        views: tuple[int, ...] = (0,),
        known: NDArray[np.bool_] | None = None,
    ) -> Lesson:
        """Take the patches (V * M, C) of all ``views`` of an image apart.

        ``marked`` 0/1 (M,) are the abnormal ones of the image as it is or, of a region, those that are shown to be
        normal. Those that are not ``known`` (V * M,) are left out, all are unless given.
        """
        key = reference.sha256 and reference.sha256 + reference.mask_sha256
        if reference.kind == "normal":
            pools = {"normal": ArrayPool(tokens, key=key)}
        elif reference.kind == "region":
            shown = np.flatnonzero((marked > 0)[origins(grid, views)])
            pools = {"normal": ArrayPool(tokens[shown], shown, key)}
        else:
            pools = take_apart(tokens, marked, grid, key, views, known)
        return cls(reference, pools, files or {})
