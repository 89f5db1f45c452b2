"""``anomalib-nagl evaluate``: numbers of models on categories they were not trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from rich.console import Console

from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import suggest

COMMAND_OPTIONS = ("config", "dry_run", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``evaluate`` with these arguments; returns 3 when some cell failed, 130 when interrupted."""
    console = Console()
    given = list(arguments or [])
    if "--report" in given:  # needs no settings: the folder says all
        from anomalib_nagl.evaluation.report import write_report

        for path in write_report(_report_folder(given)):
            console.print(f"Written: {path}", soft_wrap=True, highlight=False)
        return 0
    settings, dry_run = parse(given)
    # Imported late: --help and misspelt settings need no torch.
    from anomalib_nagl.evaluation.run import evaluate, print_plan

    try:
        if dry_run:
            print_plan(settings, console)
            return 0
        return evaluate(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on where this one was.")
        return exit_codes.INTERRUPTED


def parse(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """Settings from the command line, and whether nothing shall be computed; ValueError on what does not fit."""
    parser = _parser()
    try:
        found = parser.parse_args(list(arguments))
    except ArgumentError as error:
        known = [*(field.name for field in fields(Settings)), *COMMAND_OPTIONS]
        words = str(error.message)
        name = re.search(r"(?:[Kk]ey '|[Oo]ption '|--)([\w.]+)", words)
        hint = "" if name is None or name[1].split(".")[0] in known else suggest(name[1].split(".")[-1], known)
        raise ValueError(f"{words}{hint}") from None
    values = parser.instantiate_classes(found)
    return Settings(**{field.name: values[field.name] for field in fields(Settings)}), bool(values.dry_run)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="anomalib-nagl evaluate", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="file of settings, such as configs/evaluate/*.yaml")
    parser.add_class_arguments(Settings, as_group=False)
    parser.add_argument("--dry_run", action="store_true", help="list what would be computed, and compute nothing")
    parser.add_argument("--report", metavar="FOLDER", help="only write tables and plots of a folder's results anew")
    return parser


def _report_folder(given: list[str]) -> Path:
    place = given.index("--report") + 1
    if len(given) != 2 or place >= len(given):
        raise ValueError("--report takes exactly one folder and no other option, such as --report results/evaluation")
    return Path(given[place])
