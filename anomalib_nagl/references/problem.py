"""One thing that is wrong with references."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """Something a person should look at: where, what was found, what to do. Only ``fatal`` ones stop a run."""

    path: str
    found: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        """Path, problem and remedy in one line for logs."""
        return f"{self.path}: {self.found}: {self.remedy}"
