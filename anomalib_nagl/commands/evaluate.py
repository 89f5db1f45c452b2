"""``anomalib-nagl evaluate``: numbers of models on categories they were not trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from rich.console import Console

from anomalib_nagl.commands.cluster import HELP as SCHEDULER
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import suggest

COMMAND_OPTIONS = ("config", "dry_run", "report", "scheduler")
DESCRIPTION = (
    "Measure models on categories they were not trained on: every model on every category with every draw of "
    "references, into tables, plots and sheets of one folder."
)
HELP = {
    "data": "root folder of the data set, a folder for each category",
    "domains": "categories that are held out together, by domain: {boards: [pcb1, pcb2], tiles: [tile]}",
    "format": "anomalib's datamodule that reads the data set",
    "targets": "categories to evaluate; all of every domain unless given",
    "models": "what to measure: normal_only, naive, a key of heads, or a model of anomalib (patchcore, padim, ...)",
    "heads": "heads to train: a name, and what differs from the other settings, such as {nagl: {epochs: 10}}",
    "shots": "numbers of normal and abnormal references, such as [1+0, 1+1, 4+4]",
    "reference_seeds": "draws of references for each category and shots",
    "training_seeds": "trainings of each head",
    "protocols": "fixed: all defects are tested; unseen: only types that no reference shows; paper: as published",
    "sources": "what heads are trained on: other_domains, same_domain (its other categories), same_object (half of it)",
    "abnormal": "abnormal references: real ones, or synthetic ones made of normal images",
    "strategy": "how references are drawn: uniform, per_type or published",
    "backbone": "backbone of all heads and baselines, as of Nagl",
    "layers": "stages of a CNN backbone, such as 2,3",
    "image_size": "side of the network input in pixels, or height and width",
    "epochs": "epochs of a training",
    "episodes": "episodes of an epoch",
    "learning_rate": "learning rate of a training",
    "metric_size": "side at which pixel metrics are computed; that of the network input unless given",
    "costs": "measure time and memory of each model too, a few minutes for each",
    "compare_to": "model that tables show differences from",
    "processes": "jobs computed at once",
    "out": "folder for everything that is written; the same folder goes on where it was",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``evaluate`` with these arguments; returns 3 when some cell failed, 130 when interrupted."""
    console = Console()
    given = list(arguments or [])
    if "--report" in given:  # needs no settings: the folder says all
        from anomalib_nagl.evaluation.report import write_report

        for path in write_report(_report_folder(given)):
            console.print(f"Written: {path}", soft_wrap=True, highlight=False)
        return 0
    values = _values(given)
    settings = _settings(values)
    # Imported late: --help and misspelt settings need no torch.
    from anomalib_nagl.evaluation.run import evaluate, print_plan

    try:
        if values.dry_run:
            print_plan(settings, console)
            return 0
        if values.scheduler:
            return _on_cluster(settings, values.scheduler, console)
        return evaluate(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on where this one was.")
        return exit_codes.INTERRUPTED


def _on_cluster(settings: Settings, scheduler: str, console: Console) -> int:
    """Have the workers of a cluster, whose machines share data and folder, compute the cells."""
    from anomalib_nagl.commands.cluster import connected
    from anomalib_nagl.evaluation.executors import prepare
    from anomalib_nagl.evaluation.run import evaluate

    with connected(scheduler) as cluster:
        at_once = replace(settings, processes=cluster.size)
        return evaluate(at_once, console, partial(cluster.factory, setup=prepare))


def parse(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """Settings from the command line, and whether nothing shall be computed; ValueError on what does not fit."""
    values = _values(arguments)
    return _settings(values), bool(values.dry_run)


def _settings(values: Namespace) -> Settings:
    return Settings(**{field.name: values[field.name] for field in fields(Settings)})


def _values(arguments: Sequence[str]) -> Namespace:
    """Every option; ValueError on what does not fit."""
    parser = _parser()
    try:
        found = parser.parse_args(list(arguments))
    except ArgumentError as error:
        known = [*(field.name for field in fields(Settings)), *COMMAND_OPTIONS]
        words = str(error.message)
        name = re.search(r"(?:[Kk]ey '|[Oo]ption '|--)([\w.]+)", words)
        hint = "" if name is None or name[1].split(".")[0] in known else suggest(name[1].split(".")[-1], known)
        raise ValueError(f"{words}{hint}") from None
    return parser.instantiate_classes(found)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="anomalib-nagl evaluate", description=DESCRIPTION, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="file of settings, or a name that comes along: quickstart, real_small, mvtec, visa, ...",
    )
    parser.add_class_arguments(Settings, as_group=False)
    for action in parser._actions:  # docstrings of settings are for readers of the code
        action.help = HELP.get(action.dest, action.help)
    parser.add_argument("--dry_run", action="store_true", help="list what would be computed, and compute nothing")
    parser.add_argument("--scheduler", metavar="ADDRESS", help=SCHEDULER)
    parser.add_argument("--report", metavar="FOLDER", help="only write tables and plots of a folder's results anew")
    return parser


def _report_folder(given: list[str]) -> Path:
    place = given.index("--report") + 1
    if len(given) != 2 or place >= len(given):
        raise ValueError("--report takes exactly one folder and no other option, such as --report results/evaluation")
    return Path(given[place])
