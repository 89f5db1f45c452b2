"""``anomalib-nagl references check DIR``: what would be used, what is wrong with it, and how good it is."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.files import atomic_write
from anomalib_nagl.plugin.inspection import BACKBONE
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.reference_check import CheckedReferences, check_references, read_model
from anomalib_nagl.references.advice import threshold_advice
from anomalib_nagl.references.curve import general_sentence, own_sentence
from anomalib_nagl.references.folders import Problem, ReferenceFiles, scan
from anomalib_nagl.references.names import MASK_POLICIES
from anomalib_nagl.references.quality import file_problems
from anomalib_nagl.references.record import read_record
from anomalib_nagl.references.reference_set import load_references

_OF_NAGL = ("backbone", "layers", "backbone_weights", "image_size", "window")


def main(arguments: Sequence[str]) -> int:
    """Run ``references`` with these arguments; returns 3 when something stops the references from being used."""
    options = _parser().parse_args(arguments)
    console = Console()
    files = read_record(options.folder).files if options.folder.suffix == ".json" else scan(options.folder)
    _print_files(console, files)
    problems = file_problems(files)
    _print_problems(console, problems)
    if any(problem.fatal for problem in problems):
        console.print("Not checked any further: put the problems right first.")
        return exit_codes.FAILED_ITEMS
    references = load_references(files.normal, files.abnormal, options.masks)
    checked = check_references(references, _model(options))
    _print_quality(console, checked)
    _print_curve(console, checked)
    if checked.size_advice:
        console.print("[yellow]note[/]", end=" ")
        console.print(f"{checked.size_advice}.", soft_wrap=True, highlight=False, markup=False)
    if advice := threshold_advice(len(files.normal)):
        console.print("[yellow]note[/]", end=" ")
        console.print(f"{advice}.", soft_wrap=True, highlight=False, markup=False)
    atomic_write(options.sheet, lambda file: checked.sheet.save(file, format="PNG"))
    console.print(f"Contact sheet: {options.sheet}", soft_wrap=True, highlight=False, markup=False)
    command = ["anomalib-nagl", "train", "--config", "own_parts", "--data.references", str(options.folder)]
    used = f"Next, make a model of these references: {printable(shlex.join(command))}"
    console.print(used, soft_wrap=True, highlight=False, markup=False)
    if options.checkpoint is None and options.backbone is None:
        console.print(f"Compared by {BACKBONE}: name the features in use by --checkpoint or --backbone.")
    return exit_codes.DONE


def _parser() -> Parser:
    parser = Parser(prog="anomalib-nagl references", description="Check a folder of references before it is used.")
    (check,) = parser.add_commands(("check", "print what would be used, what is wrong with it, and how good it is"))
    check.add_argument("folder", type=Path, metavar="DIR", help="folder of references, or the references.json of a run")
    check.add_argument("--checkpoint", metavar="FILE", help="compare with the backbone of this checkpoint")
    check.add_argument("--backbone", help="backbone to compare with, as of Nagl; builtin unless given")
    check.add_argument("--layers", help="stages of a CNN backbone")
    check.add_argument("--backbone_weights", metavar="FILE", help="weight file of the backbone")
    check.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the network input; 256 unless given")
    check.add_argument("--window", type=int, metavar="PIXELS", help="side of windows that large images are cut into")
    check.add_argument(
        "--masks",
        default="auto",
        choices=MASK_POLICIES,
        help="what an abnormal image without a mask teaches: auto guesses it, whole takes the image, required refuses",
    )
    check.add_argument(
        "--sheet", type=Path, default=Path("references_check.png"), metavar="FILE", help="contact sheet to write, a PNG"
    )
    return parser


def _model(options: argparse.Namespace) -> Nagl:
    given = {name: value for name in _OF_NAGL if (value := getattr(options, name)) is not None}
    if options.checkpoint is None:
        size = {} if "window" in given else {"image_size": 256}
        return Nagl(**{"backbone": BACKBONE, **size, **given})
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise ValueError(
            f"found --checkpoint and {names}, expected one of the two: a checkpoint has settings of its own"
        )
    return read_model(options.checkpoint)


def _print_files(console: Console, files: ReferenceFiles) -> None:
    table = Table(title=Text.assemble("References in ", _shown(files.root)))
    for column in ("kind", "type", "images", "with masks"):
        table.add_column(column, justify="right" if column in ("images", "with masks") else "left")
    table.add_row("normal", "good", str(len(files.normal)), "")
    for defect_type in sorted({file.defect_type for file in files.abnormal}):
        files_of_type = [file for file in files.abnormal if file.defect_type == defect_type]
        masks = sum(file.mask is not None for file in files_of_type)
        table.add_row("abnormal", _shown(defect_type), str(len(files_of_type)), str(masks))
    console.print(table)


def _print_problems(console: Console, problems: Sequence[Problem]) -> None:
    for problem in sorted(problems, key=lambda problem: not problem.fatal):
        label = "[bold red]problem[/]" if problem.fatal else "[yellow]note[/]"
        console.print(label, end=" ")
        console.print(printable(str(problem)), soft_wrap=True, highlight=False, markup=False)


def _print_quality(console: Console, checked: CheckedReferences) -> None:
    table = Table(title="Normal references: deviation of each from the others")
    for column in ("image", "deviation", "remarks"):
        table.add_column(column, overflow="fold")
    for normal in checked.normal:
        table.add_row(_shown(normal.name), _number(normal.held_out), _shown("; ".join(normal.remarks)))
    console.print(table)
    spread = [normal.held_out for normal in checked.normal if not math.isnan(normal.held_out)]
    if spread:
        mean = sum(spread) / len(spread)
        console.print(f"Mean {mean:.4f}, from {min(spread):.4f} to {max(spread):.4f}.")
    if not checked.abnormal:
        return
    table = Table(title="Abnormal references: how far they stand out (above 1: further than normal ones do)")
    for column in ("image", "type", "deviation", "stands out", "contrast", "remarks"):
        table.add_column(column, overflow="fold")
    for defect in checked.abnormal:
        numbers = (_number(defect.deviation), _number(defect.stands_out, 2), _number(defect.contrast, 2))
        table.add_row(_shown(defect.name), _shown(defect.defect_type), *numbers, _shown("; ".join(defect.remarks)))
    console.print(table)


def _shown(text: str) -> Text:
    """Text as it is, in a cell or a title: a folder may be named like a mark of rich."""
    return Text(printable(text))


def _number(value: float, digits: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _print_curve(console: Console, checked: CheckedReferences) -> None:
    """Where on the curve of more references this part stands."""
    said = (own_sentence(checked.curve), general_sentence(len(checked.normal), len(checked.abnormal)))
    for sentence in said:
        if sentence is not None:
            console.print(f"{sentence}.", soft_wrap=True, highlight=False, markup=False)
