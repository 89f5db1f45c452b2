"""Repeat a column of the paper's tables: train a head on the source, adapt it to every target category, print both.

    python examples/reproduce_paper.py visa_to_mvtec [--shots 1] [--seeds 3] [--out results/paper] [-- OPTIONS]

OPTIONS go to `anomalib train`, such as --data.target.root D:/mvtec. Data sets and backbone are looked for, or fetched,
before anything is trained, and what is missing is listed; then the expected time and memory are said. A GPU is used if
there is one. A run that was broken off goes on where it stopped: the
training from its last epoch, the table from its last row. Published figures come from a secondary source (a note on
the paper), and from another protocol: the reference is of the query's own defect type and is scored itself, and the
epoch is chosen on the target. Ours use one fixed set of references for each category and seed, which is not scored.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule
from rich.console import Console
from rich.table import Table

from anomalib_nagl import Nagl
from anomalib_nagl.evaluation.expectation import expect_recipe
from anomalib_nagl.plugin.datasets import all_categories

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
METRICS = ("image_AUROC", "pixel_AUROC")


class Column(NamedTuple):
    """A recipe, its target categories (None for all) and the published AUROC in per cent by number of normals."""

    config: str
    categories: tuple[str, ...] | None
    published: dict[int, tuple[float, float]]


# arXiv 2510.00495, one abnormal reference, as quoted by github.com/zhaoyang97/Paper-Notes-en (not seen in the paper).
COLUMNS = {
    "visa_to_mvtec": Column("paper/visa_to_mvtec.yaml", None, {1: (95.8, 96.6), 4: (97.1, 97.0)}),
    "mvtec_to_visa": Column("paper/mvtec_to_visa.yaml", None, {1: (88.5, 97.5), 4: (91.2, 97.8)}),
    "mvtec_to_btech": Column("paper/mvtec_to_btech.yaml", None, {}),
    "mvtec_to_mpdd": Column("paper/mvtec_to_mpdd.yaml", None, {}),
    "mvtec_to_bmad": Column("paper/mvtec_to_bmad.yaml", ("Brain",), {2: (82.1, 96.8), 4: (84.9, 97.1)}),
    "real_small": Column("real_small/paper.yaml", ("magnetic_tile",), {}),
}


def anomalib(log: Path, *arguments: object, run: bool = True) -> AnomalibCLI:
    """Run ``anomalib ARGUMENTS``, its output into the log; without ``run``, only build model and data."""
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print("\n$ anomalib", *arguments, flush=True)
        return AnomalibCLI(args=[str(argument) for argument in arguments], run=run)


def missing(cli: AnomalibCLI) -> Iterator[tuple[str, str]]:
    """What a recipe needs and cannot get, with the reason, before anything is trained."""
    data = cli.datamodule
    sets = [data.target, *data.episode_source.expanded()]
    needs = [(type(one).__name__, one.prepare_data) for one in sets]
    needs.append((f"weights of {cli.model.model.encoder.name}", cli.model.model.encoder.ensure_weights))
    failed: set[str] = set()
    for name, fetch in needs:
        try:
            if name not in failed:
                fetch()
        except Exception as error:  # whatever a download or an archive may raise
            failed.add(name)
            yield name, (str(error).strip() or type(error).__name__).splitlines()[0]


def expectation(cli: AnomalibCLI, categories: list[str], seeds: int) -> str:
    """Time and memory of a column, from short measurements on this machine."""
    data, plan = cli.datamodule, cli.datamodule.episode_source
    sources = [path for one in plan.expanded() for path in images_of(one)]
    targets = []
    for category in categories:
        target = copy.deepcopy(data.target)
        target.category = category
        targets += images_of(target)
    epochs = cli.model.epochs
    episodes = epochs * (plan.episodes + plan.validation_episodes)
    return expect_recipe(cli.model, sources, targets, episodes, seeds).sentence(1)


def images_of(datamodule: AnomalibDataModule) -> list[str]:
    """Paths of all images of a category."""
    datamodule.seed = 0 if datamodule.seed is None else datamodule.seed
    datamodule.setup()
    return [str(path) for one in (datamodule.train_data, datamodule.test_data) for path in one.samples.image_path]


def train_head(log: Path, out: Path, common: tuple[object, ...]) -> Path:
    """Checkpoint of the trained head; made anew, resumed, or found finished."""
    for found in sorted(out.rglob("model.ckpt")):
        return found
    begun = sorted(out.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    resume = ("--ckpt_path", begun[-1]) if begun else ()
    cli = anomalib(log, "train", *common, "--default_root_dir", out, *resume)
    return Path(cli.engine.trainer.default_root_dir) / "weights/lightning/model.ckpt"


def rows_of(table: Path) -> list[dict[str, str]]:
    """Rows that are done."""
    return list(csv.DictReader(table.open(newline=""))) if table.is_file() else []


def evaluate(log: Path, table: Path, head: Path, categories: list[str], seeds: int, common: tuple[object, ...]) -> None:
    """Adapt the head to every category with every draw of references; a row of the table as each is done."""
    done = {(row["category"], row["seed"]) for row in rows_of(table)}
    cells = [(category, seed) for category in categories for seed in range(seeds)]
    for category, seed in cells:
        if (category, str(seed)) in done:
            continue
        cli = anomalib(
            log, "train", *common, "--default_root_dir", table.parent / "targets", "--model.head", head,
            "--data.target.category", category, "--data.seed", seed,
        )  # fmt: skip
        found = cli.engine.trainer.callback_metrics
        row = {"category": category, "seed": seed, **{name: float(found[name]) for name in METRICS}}
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def show(column: str, shots: int, rows: list[dict[str, str]], published: tuple[float, float] | None) -> Table:
    """Ours by category, mean and spread over draws of references, and the published mean."""
    table = Table(title=f"{column}, {shots} normal + 1 abnormal, AUROC in per cent")
    for name in ("category", "draws", "image", "pixel"):
        table.add_column(name, justify="left" if name == "category" else "right")
    means = []
    for category in dict.fromkeys(row["category"] for row in rows):
        found = 100 * np.array([[float(row[m]) for m in METRICS] for row in rows if row["category"] == category])
        means.append(found.mean(axis=0))
        cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in zip(means[-1], found.std(axis=0), strict=True)]
        table.add_row(category, str(len(found)), *cells)
    table.add_section()
    table.add_row("mean, ours", "", *(f"{value:.1f}" for value in np.mean(means, axis=0)))
    stated = [f"{value:.1f}" for value in published] if published else ["no figure known"] * 2
    table.add_row("mean, published (secondary source, other protocol)", "", *stated)
    return table


def row_of_the_results_page(
    column: str, shots: int, rows: list[dict[str, str]], published: tuple[float, float] | None
) -> str:
    """The line of docs/results.md that these figures replace: means over categories ± over draws, published beside."""
    seeds = sorted({row["seed"] for row in rows})
    means = np.array(
        [np.mean([[float(row[m]) for m in METRICS] for row in rows if row["seed"] == seed], axis=0) for seed in seeds]
    )
    ours = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in zip(means.mean(0), means.std(0), strict=True)]
    stated = [f"{value:.1f}" for value in published] if published else ["", ""]
    return "| " + " | ".join([f"`{column}`", f"{shots} + 1", *ours, *stated]) + " |"


def main() -> None:
    """Check, train, adapt, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("column", choices=sorted(COLUMNS))
    parser.add_argument("--shots", type=int, choices=(1, 2, 4), default=1, help="normal references")
    parser.add_argument("--seeds", type=int, default=3, help="draws of references for each category")
    parser.add_argument("--out", type=Path, default=Path("results/paper"))
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, options = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    console, column = Console(), COLUMNS[given.column]
    out = (given.out / f"{given.column}_{given.shots}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    common = ("--config", CONFIGS / column.config, "--data.n_normal", given.shots, *options)
    cli = anomalib(log, "train", *common, run=False)
    lacking = list(missing(cli))
    if lacking:
        console.print(f"{given.column} cannot be repeated here, nothing was trained:", style="bold")
        for name, reason in lacking:
            console.print(f"  {name}: {reason}")
        console.print(
            "Put the data set where its datamodule looks, or name another place: -- --data.target.root FOLDER"
        )
        raise SystemExit(1)
    categories = list(column.categories or all_categories(cli.datamodule.target))
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        expected = expectation(cli, categories, given.seeds)
    console.print(expected, highlight=False)
    console.print(f"Training and adapting; {log} holds what anomalib prints.")
    head = train_head(log, out / "head", common)
    Nagl.load_from_checkpoint(head)  # whole before it is used many times
    evaluate(log, out / "results.csv", head, categories, given.seeds, common)
    console.print(show(given.column, given.shots, rows_of(out / "results.csv"), column.published.get(given.shots)))
    line = row_of_the_results_page(
        given.column, given.shots, rows_of(out / "results.csv"), column.published.get(given.shots)
    )
    console.print(f"Rows: {out / 'results.csv'}. For docs/results.md:", highlight=False)
    console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
