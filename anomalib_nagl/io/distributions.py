"""Which of our two distributions is installed: they bring the same files, so an environment has one of them."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTIONS = ("anomalib-nagl", "anomalib-nagl-edge")


def conflict() -> str | None:
    """Say what to do where both distributions are installed into one folder, the later over files of the earlier."""
    folders = [_folder(name) for name in DISTRIBUTIONS]
    if None in folders or folders[0] != folders[1]:
        return None
    both = " ".join(DISTRIBUTIONS)
    return (
        f"found {' and '.join(DISTRIBUTIONS)} in {folders[0]}, expected one of them, as they install the same files: "
        f"run `pip uninstall {both}`, then install the one that you need"
    )


def tell_conflict() -> None:
    """Print the conflict of distributions, if there is one, on stderr."""
    if found := conflict():
        print(f"anomalib-nagl: {found}", file=sys.stderr)


def _folder(name: str) -> Path | None:
    """Return the folder into which a distribution was installed."""
    try:
        return Path(str(distribution(name).locate_file("")))
    except PackageNotFoundError:
        return None
