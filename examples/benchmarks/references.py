"""Decisions by thresholds from the references, and how often the nearest reference has the defect type of the query.

    anomalib-nagl evaluate --config configs/evaluate/references.yaml
    python examples/benchmarks/references.py [--seeds 5] [OPTION ...]

The first command measures what masks and synthetic defects are worth, and trains the heads; the second uses these
heads, or trains those that are missing, with the references and queries of the protocol ``fixed``. Other options are
those of ``evaluate``. Writes one CSV row for every single run, ``decisions.csv`` and ``nearest.csv``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import machine
import pandas as pd
import torch
from anomalib.metrics import F1AdaptiveThreshold
from rich.console import Console
from rich.progress import track
from torchmetrics.functional.classification import binary_f1_score

from anomalib_nagl import Nagl
from anomalib_nagl.commands.evaluate import parse
from anomalib_nagl.core.calibration import calibrate
from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.grid import TrainingJob
from anomalib_nagl.evaluation.heads import train_head
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import GOOD
from anomalib_nagl.evaluation.scorer import Scorer, device
from anomalib_nagl.references.sampling import ABNORMAL, order

CONFIG = Path(__file__).resolve().parents[2] / "configs/evaluate/references.yaml"
HEAD = "nagl"
Row = dict[str, Any]


def decisions(scorer: Scorer, model: Nagl, category: Category, draw: Draw) -> Iterator[Row]:
    """F1, false alarms on good queries and recall, by our threshold and by anomalib's, which sees their labels."""
    labels = torch.tensor([sample.defect_type != GOOD for sample in draw.queries])
    for shown in (draw._replace(abnormal=()), draw):
        tokens = scorer.reference_tokens(model, category, shown)
        scores = scorer.score(model, category, shown).scores
        adaptive = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
        adaptive.update(SimpleNamespace(pred_score=scores, gt_label=labels.int()))
        by = {
            "references": calibrate(model.model, tokens).image.raw_threshold,
            "F1-adaptive": float(adaptive.compute()),
        }
        for threshold, value in by.items():
            alarms = scores > value
            yield {
                "n": len(shown.normal),
                "a": len(shown.abnormal),
                "threshold": threshold,
                "F1": float(binary_f1_score(alarms.int(), labels.int())),
                "false alarms": float(alarms[~labels].float().mean()),
                "recall": float(alarms[labels].float().mean()),
            }


@torch.no_grad()
def nearest(scorer: Scorer, model: Nagl, category: Category, draw: Draw, seed: int) -> Row:
    """Shares of queries whose nearest reference has their label, or their type, with one reference of each type."""
    candidates = order(category.defects, "uniform", seed, ABNORMAL)
    shown = {sample.defect_type: sample for sample in reversed(candidates)}
    draw = draw._replace(
        abnormal=tuple(shown.values()), queries=tuple(s for s in draw.queries if s not in set(shown.values()))
    )
    core, n = model.model, len(draw.normal)
    references = scorer.reference_tokens(model, category, draw)
    size = core.encoder.image_size
    blank = torch.zeros(n + len(shown), 3, *size, dtype=torch.uint8)
    core.use(core.adapt(references), references, blank, torch.zeros(len(shown), *size))
    alike = []
    for query in draw.queries:
        tokens = scorer.tokens(model, category, [query])
        alike.append(core.similarity(tokens, core.score(tokens).score)[0].cpu())
    similarity, types = torch.stack(alike), list(shown)
    abnormal = torch.tensor([sample.defect_type != GOOD for sample in draw.queries])
    like_abnormal, closest = similarity.argmax(1) >= n, similarity[:, n:].argmax(1).tolist()
    right = torch.tensor([types[i] == query.defect_type for i, query in zip(closest, draw.queries, strict=True)])
    return {
        "n": n,
        "a": len(types),
        "good like normal": float((~like_abnormal)[~abnormal].float().mean()),
        "defect like abnormal": float(like_abnormal[abnormal].float().mean()),
        "type": float(right[abnormal].float().mean()),
        "type by chance": 1 / len(types),
    }


def main() -> None:
    """Measure, write and print means over categories and seeds, with their standard deviation over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, help="draws of references, instead of those of the file")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one, if left out")
    given, rest = parser.parse_known_args()
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # heads are trained by Lightning, which looks for itself
    machine.on_device(given.device or device().type)
    settings, _ = parse(["--config", str(given.config), *rest])
    scorer = Scorer(settings)
    rows: dict[str, list[Row]] = {"decisions": [], "nearest": []}
    for name in settings.evaluated:
        job = TrainingJob(HEAD, "other_domains", settings.domains[settings.domain_of(name)][0], 0)
        model, category = scorer.model(HEAD, train_head(settings, job)), scorer.category(name)
        draws = [
            (shots, seed) for shots in settings.parsed_shots for seed in range(given.seeds or settings.reference_seeds)
        ]
        for shots, seed in track(draws, description=name, transient=True):
            draw = protocols.fixed(category, *shots, seed, settings.largest, settings.strategy, scorer.content)
            about = {"category": name, "seed": seed}
            rows["decisions"] += [about | row for row in decisions(scorer, model, category, draw)]
            rows["nearest"].append(about | nearest(scorer, model, category, draw, seed))
    for name, found in rows.items():
        frame, path = pd.DataFrame(found), Path(settings.out) / f"{name}.csv"
        frame.to_csv(path, index=False)
        ways = [column for column in ("n", "threshold") if column in frame]
        by_seed = frame.assign(a=frame["a"] > 0).groupby([*ways, "a", "seed"]).mean(numeric_only=True)
        table = by_seed.groupby([*ways, "a"]).agg(["mean", "std"]).round(3)
        Console(width=200).print(f"\n{name}, single runs in {path}\n{table.to_string()}", highlight=False)


if __name__ == "__main__":
    main()
