"""Thresholds from the references alone, against the best ones that the labels of the queries would give.

    python examples/benchmarks/thresholds.py --data datasets/real_small [--shots "[1+1, 4+2]"] [--seeds 10] [OPTION ...]

No head is trained. Other options are those of ``evaluate``. Writes one CSV row for every run, ``thresholds.csv``, and
prints for each category the means over draws: balanced accuracy at the threshold from the references and at the
best one, the share of the best that is reached (each less 0.5, which is chance), false alarms, misses, how often the
references are said to overlap, and where good and defective queries lie on the scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from anomalib_nagl import Nagl
from anomalib_nagl.commands.evaluate import parse
from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.evaluation.scorer import Scorer

CONFIG = Path(__file__).resolve().parents[2] / "configs/evaluate/head_free.yaml"
HEAD, SHOTS = "head_free", "[1+1, 4+2, 10+4]"
Row = dict[str, Any]


def best_accuracy(scores: NDArray[np.float32], defective: NDArray[np.bool_]) -> float:
    """Balanced accuracy at the threshold that the labels (P,) of scores (P,) would choose."""
    good, bad = np.sort(scores[~defective]), np.sort(scores[defective])
    thresholds = np.concatenate([[-np.inf], scores])
    right = np.searchsorted(good, thresholds, side="right") / len(good)
    missed = np.searchsorted(bad, thresholds, side="right") / len(bad)
    return float(((right + 1 - missed) / 2).max())


def decide(scorer: Scorer, model: Nagl, category: Category, draw: Draw) -> Row:
    """How the queries of a draw are judged."""
    defective = np.array([sample.defect_type != GOOD for sample in draw.queries])
    found = calibrate(model.model, scorer.reference_tokens(model, category, draw), model.bank_limit)
    scores = scorer.score(model, category, draw).scores.numpy()
    shown = found.image.shown(scores)
    alarms, misses = float((shown[~defective] > 0.5).mean()), float((shown[defective] <= 0.5).mean())
    return {
        "accuracy": 1 - (alarms + misses) / 2,
        "best": best_accuracy(scores, defective),
        "false alarms": alarms,
        "misses": misses,
        "overlap": float(found.overlap),
        "good at": float(shown[~defective].mean()),
        "defective at": float(shown[defective].mean()),
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over draws of each category, and over categories; the share is that of the means."""
    table = rows.groupby(["n", "a", "category"]).mean(numeric_only=True).drop(columns="seed")
    table.insert(0, "share", (table["accuracy"] - 0.5) / (table["best"] - 0.5))
    means = table.groupby(["n", "a"]).mean().assign(category="mean").set_index("category", append=True)
    return pd.concat([table, means]).sort_index(level=["n", "a"], sort_remaining=False).round(3)


def runs(scorer: Scorer, seeds: int) -> Iterator[Row]:
    """All draws of all categories."""
    settings = scorer.settings
    model = scorer.model(HEAD)
    for name in settings.evaluated:
        category = scorer.category(name)
        draws = [(shots, seed) for shots in settings.parsed_shots for seed in range(seeds)]
        for (n, a), seed in track(draws, description=name, transient=True):
            try:
                draw = protocols.fixed(category, n, a, seed, (max(n, 4), max(a, 4)), settings.strategy, scorer.content)
            except ValueError as error:
                Console(stderr=True).print(f"{name} {n}+{a}, seed {seed}: {error}", highlight=False)
                continue
            yield {"category": name, "n": n, "a": a, "seed": seed, **decide(scorer, model, category, draw)}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=10, help="draws of references")
    given, rest = parser.parse_known_args()
    settings, _ = parse(["--config", str(given.config), "--shots", SHOTS, *rest])
    frame, path = pd.DataFrame(runs(Scorer(settings), given.seeds)), Path(settings.out) / "thresholds.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
    Console(width=200).print(f"single runs in {path}\n{summary(frame).to_string()}", highlight=False)


if __name__ == "__main__":
    main()
