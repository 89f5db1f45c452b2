"""``anomalib-nagl edge merge`` and ``edge diff``: what several boxes were taught, as one bank, or compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.merging import differences, merge
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import EdgeError, printable

COMMANDS = (
    ("merge", "write what several banks of one model were taught into a new one"),
    ("diff", "say in what two banks differ"),
)


def describe(parsers: Sequence[Parser]) -> None:
    """Give the parsers of ``COMMANDS`` their arguments."""
    merging, comparing = parsers
    merging.set_defaults(run=run_merge)
    merging.add_argument(
        "banks", type=Path, nargs="+", metavar="BANK", help="banks, or models (their .bank), the first one first"
    )
    merging.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="the .bank to write")
    merging.add_argument(
        "--thresholds", type=int, default=1, metavar="NUMBER", help="which bank's thresholds and scales; 1 if left out"
    )
    merging.add_argument("--region", type=int, default=1, metavar="NUMBER", help="which bank's region; 1 if left out")
    comparing.set_defaults(run=run_diff)
    comparing.add_argument("one", type=Path, metavar="BANK", help="a bank, or a model")
    comparing.add_argument("other", type=Path, metavar="OTHER", help="another one")
    comparing.add_argument("--exit-code", action="store_true", help="exit with 1 when they differ")


def run_merge(options: argparse.Namespace) -> None:
    """Write several banks into a new one, and name what they do not agree about."""
    number = len(options.banks)
    if number < 2:
        raise EdgeError(f"found {options.banks[0]} alone, expected two banks or more: name the others behind it")
    for name in ("thresholds", "region"):
        if not 1 <= getattr(options, name) <= number:
            raise EdgeError(f"found --{name} {getattr(options, name)}, expected the place of a bank, 1 to {number}")
    done = merge(options.banks, options.out, options.thresholds - 1, options.region - 1)
    for sentence in done.conflicts:
        print(printable(f"conflict: {sentence}"))
    for path, count in done.given.items():
        print(printable(f"{count} references of {path}"))
    marked = f" and {done.marked} marked images" if done.marked else ""
    print(printable(f"wrote {sum(done.given.values())} references{marked}: {options.out}"))


def run_diff(options: argparse.Namespace) -> int:
    """Say in what two banks differ; returns the exit status."""
    found = differences(options.one, options.other)
    for words in found or ["both hold the same"]:
        print(printable(words))
    return exit_codes.DEFECTIVE if found and options.exit_code else exit_codes.DONE
