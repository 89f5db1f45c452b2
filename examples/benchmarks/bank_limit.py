"""What a limit on the patches that are compared with costs in AUROC, without any training.

    python examples/benchmarks/bank_limit.py --data datasets/real_small datasets/real_more \
        --backbone local-dir:weights/mobilenetv2_100_tfsame gabor

The limit is that of ``bank.adapted.Limits``: normal patches, and half as many surroundings and known defects. Figures
are means over categories and draws; differences from ``unlimited`` are taken within a draw. Every folder given is in
MVTec's layout.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import pandas as pd
import torch
from rich.console import Console

from anomalib_nagl import Nagl
from anomalib_nagl.core.state import AdaptedState
from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.metrics import measure
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import Scored
from anomalib_nagl.evaluation.scorer import BATCH, Scorer
from anomalib_nagl.evaluation.settings import Settings

HEAD = "patches"
Row = dict[str, Any]


@torch.no_grad()
def score(scorer: Scorer, model: Nagl, category: Category, draw: Draw, state: AdaptedState) -> Scored:
    """Score the queries of a draw by a state."""
    core, scores, maps = model.model, [], []
    for start in range(0, len(draw.queries), BATCH):
        tokens = scorer.tokens(model, category, draw.queries[start : start + BATCH])
        found = core.predictions(core.score(tokens, state).score)
        scores.append(found.pred_score)
        maps.append(scorer.resized(found.anomaly_map[:, 0]))
    return scorer.scored(category, draw, torch.cat(scores), torch.cat(maps))


def rows(scorer: Scorer, model: Nagl, category: Category, draw: Draw, limits: list[int]) -> Iterator[Row]:
    """AUROC of a draw without a limit, then with each."""
    tokens = scorer.reference_tokens(model, category, draw)

    def measured(limit: int | None) -> Row:
        start = time.perf_counter()
        state = model.model.adapt(tokens, limit)
        took = time.perf_counter() - start
        found = measure(score(scorer, model, category, draw, state))
        kept = len(state["normal_bank"])
        return {"image": found["image_AUROC"], "pixel": found["pixel_AUROC"], "normal patches": kept, "seconds": took}

    whole = measured(None)
    yield {"limit": "unlimited", **whole}
    for limit in limits:
        found = measured(limit)
        yield {"limit": limit, **found, **{f"{name} change": found[name] - whole[name] for name in ("image", "pixel")}}


def evaluate(data: Path, backbone: str, given: argparse.Namespace) -> Iterator[Row]:
    """Rows of all categories of a data set."""
    names = sorted(folder.name for folder in data.iterdir() if (folder / "train").is_dir())
    settings = Settings(
        data=str(data), domains={name: [name] for name in names}, models=[HEAD],
        heads={HEAD: {"variant": "extended-proxies"}}, shots=[f"{n}+{given.abnormal}" for n in given.normal],
        backbone=backbone, image_size=given.image_size, metric_size=given.image_size // 2, costs=False,
        compare_to=HEAD, out=str(given.out),
    )  # fmt: skip
    scorer = Scorer(settings)
    for name in names:
        model, category = scorer.model(HEAD), scorer.category(name)
        for shots in settings.parsed_shots:
            if shots.n > len(category.normal):
                continue
            for seed in range(given.seeds):
                draw = protocols.fixed(category, *shots, seed, settings.largest, content=scorer.content)
                about = {"backbone": backbone, "category": name, "n": shots.n, "seed": seed}
                yield from (about | row for row in rows(scorer, model, category, draw, given.limits))


def main() -> None:
    """Measure, write single runs, print means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backbone", nargs="+", default=["gabor"])
    parser.add_argument("--image-size", type=int, default=384)
    parser.add_argument("--normal", type=int, nargs="+", default=[8, 16], help="numbers of normal references")
    parser.add_argument("--abnormal", type=int, default=1, help="number of abnormal references")
    parser.add_argument("--limits", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--seeds", type=int, default=1, help="draws of references")
    parser.add_argument("--out", type=Path, default=Path("results/bank_limit"))
    given = parser.parse_args()
    found = [row for data in given.data for backbone in given.backbone for row in evaluate(data, backbone, given)]
    frame = pd.DataFrame(found).astype({"limit": str})
    given.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(given.out / "bank_limit.csv", index=False)
    console = Console(width=150)
    console.print(machine.describe())
    table = frame.groupby(["backbone", "n", "limit"]).mean(numeric_only=True).drop(columns="seed")
    console.print(table.round(4).to_string(), highlight=False)
    console.print(f"Single runs in {given.out / 'bank_limit.csv'}.")


if __name__ == "__main__":
    main()
