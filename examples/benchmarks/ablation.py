"""What each choice in the default is worth, judged on source domains alone, one change at a time.

    python examples/benchmarks/ablation.py --data datasets/real_small

A head is trained on one domain and judged on another, for every ordered pair of domains. When a third one is the
target, these are its sources: what is best on them is chosen without a look at the target. Each change is compared with
the default in pairs that share categories, references and queries. Image AUROC, and AUROC and average precision of
patches. Short trainings; one CSV row for every head, category and draw. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from references import DOMAINS, Pictures, Run, draw, encode, encode_one, fit_head, parser_of, write_csv
from rich.console import Console
from rich.table import Table
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

import anomalib_nagl.core.head
from anomalib_nagl import Nagl
from anomalib_nagl.core.functional import image_score, top_mean
from anomalib_nagl.core.variants import Quirks
from anomalib_nagl.references.images import load_image

Score = Callable[[torch.Tensor], torch.Tensor]
METRICS = ("image AUROC", "patch AUROC", "patch AP")
COLUMNS = ("change", "trained on", "category", "n", "a", "seed", "training seed", *METRICS)


@dataclass(frozen=True)
class Change:
    """One difference from the default: arguments of ``Nagl`` that train another head, or something after training."""

    train: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None  # of the head when it scores, its weights unchanged
    weights: tuple[float, float] | None = None  # of the nearest defect patch and of the proxies
    score: Score = image_score
    turns: int = 1  # each normal reference also turned by 90 degrees, so many times in all

    @property
    def name_of_head(self) -> str:
        """Names the training; changes after training share that of the default."""
        return ",".join(f"{key}={value}" for key, value in self.train.items()) or "default"


def quirk(name: str) -> Change:
    """The default with one quirk of the published code."""
    return Change({"variant": f"extended+{name}"})


CHANGES: dict[str, Change] = {
    "default": Change(),
    "published fusion, no context (corrected)": Change({"variant": "corrected"}),
    "published code (paper)": Change({"variant": "paper"}),
    "paper, its learning rate": Change({"variant": "paper", "learning_rate": 1e-5}),
    "no context": Change({"variant": "extended-context"}),
    "no defect patches": Change({"variant": "extended-defects"}),
    "normal only": Change(weights=(0.0, 0.0)),
    "naive rule": Change(variant="extended-context", weights=(1.0, 0.0)),
    **{f"weights {d} and {p}": Change(weights=(d, p)) for d, p in
       ((0.5, 0.0), (0.5, 0.125), (0.5, 0.5), (0.5, 1.0), (0.25, 0.25), (1.0, 0.25))},
    **{f"with {name}": quirk(name) for name in ("Q1", "Q3", "Q4", "Q5", "Q6", "Q12", "Q13", "Q30")},
    "score: largest patch": Change(score=partial(top_mean, count=1)),
    "score: top 2 %": Change(score=partial(image_score, fraction=0.02)),
    "score: top 20": Change(score=partial(top_mean, count=20)),
    "references turned, 4 ways": Change(turns=4),
    "learning rate 3e-5": Change({"learning_rate": 3e-5}),
    "learning rate 3e-4": Change({"learning_rate": 3e-4}),
    "learning rate 1e-3": Change({"learning_rate": 1e-3}),
    "twice the epochs": Change({"epochs": 2}),
    "four times the epochs": Change({"epochs": 4}),
    "5 proxies": Change({"num_proxies": 5}),
    "50 proxies": Change({"num_proxies": 50}),
    "stages of stride 8 and 16": Change({"layers": "2,3"}),
    "stages of stride 16 and 32": Change({"layers": "3,4"}),
}  # fmt: skip


def train_head(change: Change, domain: str, seed: int, options: argparse.Namespace) -> Path:
    """Train a head on one domain, unless that was done before."""
    path: Path = options.out / "heads" / f"{change.name_of_head} {domain} {seed}.ckpt"
    if path.exists():
        return path
    sources = [name for name, one in DOMAINS.items() if one == domain]
    # anomalib's command wants a target: of this one it sees two references, after training.
    target = next(name for name, one in DOMAINS.items() if one != domain)
    own = {"learning_rate": 1e-4, **change.train}
    own["epochs"] = options.epochs * own.get("epochs", 1)
    more = [
        "--model.seed", seed, "--model.selection", "last", "--model.token_cache_dir", options.out / "tokens",
        "--data.validation_categories", "[]", "--data.episodes", options.episodes, "--data.seed", seed,
    ]  # fmt: skip
    for key, value in own.items():
        more += [f"--model.{key}", value]
    fit_head(path, target, sources, options, *more)
    return path


@torch.no_grad()
def turned(model: Nagl, path: Path, turns: int, known: dict[tuple[Path, int], torch.Tensor]) -> list[torch.Tensor]:
    """Tokens of a picture turned by 90 degrees, and by 180 and 270."""
    for turn in range(1, turns):
        if (path, turn) not in known:
            known[path, turn] = encode_one(model, torch.rot90(load_image(path), turn, (1, 2)))
    return [known[path, turn] for turn in range(1, turns)]


@torch.no_grad()
def judge(model: Nagl, change: Change, pictures: Pictures, run: Run, known: Any) -> list[float]:
    """The metrics of the tested pictures."""
    head, grid = model.model.head, model.model.encoder.grid
    trained, weights = head.quirks, (anomalib_nagl.core.head.DEFECT_WEIGHT, anomalib_nagl.core.head.PROXY_WEIGHT)
    more = [one for i in run.normal for one in turned(model, pictures.paths[i], change.turns, known)]
    normal = torch.cat([pictures.tokens[run.normal], *(one[None] for one in more)])
    try:
        if change.variant is not None:
            head.quirks = Quirks.parse(change.variant)
        if change.weights is not None:
            anomalib_nagl.core.head.DEFECT_WEIGHT, anomalib_nagl.core.head.PROXY_WEIGHT = change.weights
        abnormal, marked = pictures.tokens[run.abnormal], pictures.marked[run.abnormal]
        if change.weights == (0.0, 0.0):
            abnormal, marked = abnormal[:0], marked[:0]
        located = torch.ones(len(abnormal), dtype=torch.bool)
        bank, proxies, defects = (part[None] for part in head.learn(normal, abnormal, marked, located, grid))
        queries = pictures.tokens[run.tested].split(32)
        scores = torch.cat([head.detect(chunk, bank, proxies, grid, defects).score for chunk in queries])
    finally:
        head.quirks = trained
        anomalib_nagl.core.head.DEFECT_WEIGHT, anomalib_nagl.core.head.PROXY_WEIGHT = weights
    labels = torch.tensor([pictures.types[i] != "good" for i in run.tested]).int()
    patches = (pictures.marked[run.tested] > 0).flatten().int()
    return [
        float(binary_auroc(change.score(scores), labels)),
        float(binary_auroc(scores.flatten(), patches)),
        float(binary_average_precision(scores.flatten(), patches)),
    ]


def compare(name: str, rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """For each target domain: mean difference of a change from the default on the pairs of the other two domains.

    The last entry is over all pairs, with the standard deviation between pairs.
    """
    keys = COLUMNS[1:7]
    base = {tuple(row[key] for key in keys): row for row in rows if row["change"] == "default"}
    found: dict[str, list[list[float]]] = {target: [] for target in [*sorted(set(DOMAINS.values())), "all"]}
    pairs: dict[tuple[str, str], list[list[float]]] = {}
    for row in rows:
        other = base.get(tuple(row[key] for key in keys))
        if row["change"] != name or other is None:
            continue
        gain = [float(row[metric]) - float(other[metric]) for metric in METRICS]
        judged = DOMAINS[row["category"]]
        (target,) = set(DOMAINS.values()) - {row["trained on"], judged}
        found[target].append(gain)
        pairs.setdefault((row["trained on"], judged), []).append(gain)
    shown = {target: [f"{value:+.4f}" for value in np.mean(gains, axis=0)] for target, gains in found.items() if gains}
    if pairs:
        means = np.array([np.mean(gains, axis=0) for gains in pairs.values()])
        shown["all"] = [f"{m:+.4f} ± {s:.4f}" for m, s in zip(means.mean(0), means.std(0), strict=True)]
    return shown


def tabulate(rows: list[dict[str, str]], chosen: list[str]) -> Table:
    """Differences from the default, for each domain that could be the target, and over all pairs."""
    targets = sorted(set(DOMAINS.values()))
    table = Table(title=f"{' / '.join(METRICS)} less that of the default, judged without the domain in the head line")
    for column in ("change", *(f"without {target}" for target in targets), "all pairs ± sd of pairs"):
        table.add_column(column)
    for name in chosen:
        shown = compare(name, rows)
        if name != "default" and shown:
            table.add_row(name, *(" / ".join(shown.get(target, ["-"])) for target in (*targets, "all")))
    return table


def main() -> None:
    """Run the ablation."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=4, help="of a training")
    parser.add_argument("--episodes", type=int, default=250, help="of an epoch")
    parser.add_argument("--seeds", type=int, default=3, help="draws of references")
    parser.add_argument("--training_seeds", type=int, default=1)
    parser.add_argument("--shots", nargs="+", default=["1+1", "4+4"])
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/ablation"))
    options = parser.parse_args()
    path = options.out / "ablation.csv"
    rows: list[dict[str, str]] = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    done = {(row["change"], row["trained on"], row["training seed"]) for row in rows}
    encoded: dict[str, dict[str, Pictures]] = {}
    known: dict[Any, Any] = {}
    wanted = [(name, domain, seed) for name in options.changes for seed in range(options.training_seeds)
              for domain in sorted(set(DOMAINS.values())) if (name, domain, str(seed)) not in done]  # fmt: skip
    for number, (name, domain, training_seed) in enumerate(wanted, 1):  # no bar: that of training would end it
        print(f"{number} of {len(wanted)}: {name}, trained on {domain}", flush=True)
        change = CHANGES[name]
        model = Nagl.load_from_checkpoint(train_head(change, domain, training_seed, options)).eval()
        layers = str(change.train.get("layers"))
        new = []
        for category in (one for one in DOMAINS if DOMAINS[one] != domain):
            pictures = encoded.setdefault(layers, {})
            if category not in pictures:
                pictures[category] = encode(category, model, options.data)
            for n, a in (map(int, shot.split("+")) for shot in options.shots):
                for seed in range(options.seeds):
                    run = draw(pictures[category], n, a, seed)
                    found = judge(model, change, pictures[category], run, known.setdefault(layers, {}))
                    values = (name, domain, category, n, a, seed, training_seed, *found)
                    new.append({key: str(value) for key, value in zip(COLUMNS, values, strict=True)})
        rows += new  # all rows of a head, or none
        write_csv(path, COLUMNS, rows)
    Console(width=220).print(tabulate(rows, options.changes))
    Console().print(f"Single runs: {path}")


if __name__ == "__main__":
    main()
