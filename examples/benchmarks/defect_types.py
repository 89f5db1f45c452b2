"""How often the type of a defect is told, and how often that it is of none of the known types.

    python examples/benchmarks/defect_types.py --data FOLDER [--backbone NAME] [--seeds 5] [--out FOLDER]

FOLDER holds categories side by side in MVTec's layout. With one reference of each type beside a normal one, and with
three beside four: the type of every other defect by its nearest known patches (``bank.defect_types``) and by the
discriminant of each type; then each type in turn is left out of the references, and its defects should be told to be
unknown. Writes ``types.csv`` (a row for each draw) and ``confusion.csv`` (by nearest patches, counts over draws).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_auc_score

from anomalib_nagl import Nagl
from anomalib_nagl.bank.adapted import background
from anomalib_nagl.bank.defect_types import known_types, type_of_defect
from anomalib_nagl.bank.discriminant import directions
from anomalib_nagl.bank.moments import Moments
from anomalib_nagl.core.state import as_array
from anomalib_nagl.evaluation.categories import Category
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.scorer import Scorer
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.references.sampling import ABNORMAL, NORMAL, Sample, order

CATEGORIES = ("pcb_group_92000", "pcb_group_00041", "magnetic_tile")
SHOTS = ((1, 1), (4, 3))  # normal references, and abnormal ones of each type
BATCH = 32
Row = dict[str, Any]


class Answers(NamedTuple):
    """Of each query: its type, the nearest one and how alike, whether it is known, the one of the best discriminant."""

    true: list[str]
    nearest: list[str]
    discriminant: list[str]
    similarity: list[float]
    known: list[bool]


def draw_types(category: Category, n: int, each: int, seed: int, left_out: str | None = None) -> Draw:
    """So many references of each type but one; all other defects are queries. With a type left out, the same ones."""
    of_type: dict[str, list[Sample]] = {}
    for sample in order(category.defects, "uniform", seed, ABNORMAL):
        of_type.setdefault(sample.defect_type, []).append(sample)
    shown = {name: found[:each] for name, found in of_type.items()}
    held = {sample.image for found in shown.values() for sample in found}
    abnormal = tuple(sample for name, found in sorted(shown.items()) if name != left_out for sample in found)
    normal = order(category.normal, "uniform", seed, NORMAL)[:n]
    return Draw(normal, abnormal, tuple(sample for sample in category.defects if sample.image not in held))


@torch.no_grad()
def answer(scorer: Scorer, model: Nagl, category: Category, draw: Draw) -> Answers:
    """What both rules say of the queries."""
    core, types = model.model, [sample.defect_type for sample in draw.abnormal]
    references = scorer.reference_tokens(model, category, draw)
    state, patches = core.adapt(references, model.bank_limit), core.patches(references, model.bank_limit)
    known = known_types(patches, types)
    if known is None:
        raise ValueError(f"found fewer than two types in {category.name}, expected some to tell apart")
    normal = background(patches)
    means = [
        Moments.sum((one.marked.moments for one, kind in zip(patches.abnormal, types, strict=True) if kind == name),
                    patches.width).mean
        for name in known.names
    ]  # fmt: skip
    rows = directions(normal, means, 1.0)
    found = Answers([], [], [], [], [])
    for start in range(0, len(draw.queries), BATCH):
        queries = draw.queries[start : start + BATCH]
        tokens = scorer.tokens(model, category, queries)
        scores = as_array(core.score(tokens, state).score)
        for sample, own, score in zip(queries, as_array(tokens), scores, strict=True):
            top = own[np.argsort(-score, kind="stable")[: max(int(0.01 * len(score)), 1)]]
            told = type_of_defect(top, known)
            unit = top / np.linalg.norm(top, axis=1, keepdims=True)
            standing = ((unit - normal.mean) @ rows.T).mean(axis=0)
            assert told is not None
            found.true.append(sample.defect_type)
            found.nearest.append(told.nearest)
            found.discriminant.append(known.names[int(standing.argmax())])
            found.similarity.append(told.similarity)
            found.known.append(told.known)
    return found


def balanced(true: Sequence[str], said: Sequence[str]) -> float:
    """The mean over types of the share that is told."""
    frame = pd.DataFrame({"true": true, "right": [a == b for a, b in zip(true, said, strict=True)]})
    return float(frame.groupby("true")["right"].mean().mean())


def measure(scorer: Scorer, model: Nagl, category: Category, seeds: int) -> Iterator[tuple[Row, Answers]]:
    """Rows of accuracy with all types shown, and of the unknown with one left out; and the answers of the former."""
    tasks = [(n, each, seed) for n, each in SHOTS for seed in range(seeds)]
    for n, each, seed in track(tasks, description=category.name, transient=True):
        about = {"category": category.name, "n": n, "each": each, "seed": seed}
        told = answer(scorer, model, category, draw_types(category, n, each, seed))
        row = {
            **about,
            "types": len(category.types),
            "by nearest": balanced(told.true, told.nearest),
            "by discriminants": balanced(told.true, told.discriminant),
            "called unknown": 1 - float(np.mean(told.known)),
        }
        left = [answer(scorer, model, category, draw_types(category, n, each, seed, name)) for name in category.types]
        strange = [
            np.array([true == name for true in one.true]) for one, name in zip(left, category.types, strict=True)
        ]
        known = [np.array(one.known) for one in left]
        row["unknown found"] = float(np.mean([(~k[s]).mean() for k, s in zip(known, strange, strict=True)]))
        row["known kept"] = float(np.mean([k[~s].mean() for k, s in zip(known, strange, strict=True)]))
        row["AUROC of unknown"] = float(
            np.mean([roc_auc_score(~s, one.similarity) for one, s in zip(left, strange, strict=True)])
        )
        yield row, told


def main() -> None:
    """Measure, write and print means over draws with their standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of categories in MVTec's layout")
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--image_size", type=int, default=384)
    parser.add_argument("--seeds", type=int, default=5, help="draws of references")
    parser.add_argument("--out", default="results/defect_types")
    given = parser.parse_args()
    settings = Settings(
        data=given.data, domains={"all": given.categories}, models=["head_free"], heads={}, backbone=given.backbone,
        image_size=given.image_size, out=given.out,
    )  # fmt: skip
    scorer, rows, confusion = Scorer(settings), [], []
    model = scorer.model("head_free")
    for name in given.categories:
        for row, told in measure(scorer, model, scorer.category(name), given.seeds):
            rows.append(row)
            pairs = pd.DataFrame({"true": told.true, "said": told.nearest}).value_counts().reset_index()
            confusion.append(pairs.assign(category=name, each=row["each"]))
    frame, out = pd.DataFrame(rows), Path(given.out)
    counted = pd.concat(confusion).groupby(["category", "each", "true", "said"])["count"].sum().reset_index()
    frame.to_csv(out / "types.csv", index=False)
    counted.to_csv(out / "confusion.csv", index=False)
    table = frame.drop(columns="seed").groupby(["category", "n", "each", "types"]).agg(["mean", "std"]).round(3)
    console = Console(width=220)
    console.print(table.to_string(), highlight=False)
    for (name, each), part in counted.groupby(["category", "each"]):
        square = part.pivot_table(index="true", columns="said", values="count", fill_value=0).astype(int)
        console.print(f"\n{name}, {each} of each type; rows: what it is\n{square.to_string()}", highlight=False)


if __name__ == "__main__":
    main()
