"""A labelled reading of value-order decomposition, beside the rule without training.

    python examples/vod.py [--config configs/evaluate/gaps.yaml] [--beside examples/results/gaps] [OPTION ...]
    python examples/vod.py --rows results/evaluate/gaps/vod.csv --beside examples/results/gaps

Of *VOD* (arXiv 2606.14475) only the abstract is public: it keeps what residuals of defects have in common across
objects, defect types and domains, and shows a model normal and synthetic (cut-and-paste) references. Operator, loss,
backbone and figures are not known. This is one reading of it, not the method, and none of the defaults: of the residual
of a patch to the nearest normal patch, and of that to the nearest patch of a pasted defect, the sizes of the channels
are kept in order (the values) and which channel has which is dropped (the order). They are divided by what the normal
references deviate from their own turned views, which takes out how much a domain varies. A logistic
regression of these numbers learns on the sources which patches are defective, and is used on the target as it is.

Each source of the settings is one training; every target is then scored with a normal and a real, or a cut-and-paste,
abnormal reference. Writes ``vod.csv``, one row for each run, and prints results and gaps of this reading and of
``head_free``; ``--beside`` names the folder of an evaluation with the same halves and draws whose heads are shown too.
Other options are those of ``evaluate``. The division was added after one draw on four categories had been seen without
it, and a layer less was taken (64 numbers, not a network of them) after one draw on one of these categories.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from anomalib.data.utils import LabelName
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from anomalib_nagl import Nagl
from anomalib_nagl.commands.evaluate import parse
from anomalib_nagl.core.functional import l2_normalize
from anomalib_nagl.evaluation import protocols
from anomalib_nagl.evaluation.categories import Category, open_category
from anomalib_nagl.evaluation.gaps import GAPS, measure
from anomalib_nagl.evaluation.metrics import measure as metrics_of
from anomalib_nagl.evaluation.protocols import Draw
from anomalib_nagl.evaluation.records import GOOD, Cell
from anomalib_nagl.evaluation.results import DONE, read_results
from anomalib_nagl.evaluation.scorer import Scorer, device
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.evaluation.summary import rows_of, settings_of
from anomalib_nagl.plugin.datasets import samples
from anomalib_nagl.references.sampling import Sample

CONFIG = Path(__file__).resolve().parents[1] / "configs/evaluate/gaps.yaml"
TURNED, UPRIGHT = "turned", "normal_only"  # models whose tokens are taken: of normal references, and of everything else
HEADS = {TURNED: {"variant": "discriminant", "views": "turns"}}
SYNTHETIC = "cut_paste"
VALUES = 32  # numbers that stand for the ordered sizes of the channels, each the mean of an equal share of them
STEPS, RATE, DECAY = 300, 1e-2, 0.1
EPISODES, QUERIES = 32, 8  # of a training: draws of two references, and images of each
PATCHES = 256  # of each kind, defective and not, of an episode
SHOWN = ("image_AUROC", "pixel_AUROC", "pixel_AP")


def ordered_values(residuals: Tensor) -> Tensor:
    """Sizes of the channels of residuals (..., C), the largest first, as ``VALUES`` means of equal shares."""
    ordered = residuals.abs().sort(-1, descending=True).values
    return F.adaptive_avg_pool1d(ordered.flatten(0, -2)[:, None], VALUES)[:, 0].unflatten(0, ordered.shape[:-1])


class Known(NamedTuple):
    """References: patches of normal ones and their views (K, C), of defects (L, C), what the normal ones deviate by."""

    normal: Tensor
    abnormal: Tensor
    usual: Tensor


def ordered_residuals(queries: Tensor, known: Tensor) -> Tensor:
    """Ordered values of patches (..., C) less the nearest of known ones (K, C)."""
    queries, known = l2_normalize(queries), l2_normalize(known)
    return ordered_values(queries - known[(queries @ known.T).argmax(-1)])


def reading(tokens: Tensor, known: Known) -> Tensor:
    """What the classifier sees of patches (P, M, C): (P, M, 2 ``VALUES``)."""
    return torch.cat([ordered_residuals(tokens, each) / known.usual for each in (known.normal, known.abnormal)], -1)


class Reader:
    """References, queries and labels of categories as this reading takes them."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.model, self.turned = scorer, scorer.model(UPRIGHT), scorer.model(TURNED)

    def references(self, category: Category, draw: Draw, synthetic: bool, seed: int) -> Known:
        """References of a draw."""
        made = (SYNTHETIC, 1, seed) if synthetic else None
        found = self.scorer.reference_tokens(self.model, category, draw, "given", made)
        normal, upright = self.scorer.viewed(self.turned, category, draw.normal), found.patch_mask.shape[1]
        usual = ordered_residuals(normal[:, :upright], normal[:, upright:].flatten(0, 1)).mean((0, 1))
        return Known(normal.flatten(0, 1), found.abnormal[found.patch_mask > 0], usual)

    def labels(self, queries: tuple[Sample, ...]) -> Tensor:
        """How much of each patch is defective (P, M)."""
        encoder = self.model.model.encoder
        blank = torch.zeros(encoder.image_size, dtype=torch.uint8)
        masks = [
            blank if query.defect_type == GOOD else self.scorer._mask(query, encoder.image_size) for query in queries
        ]
        return F.adaptive_avg_pool2d(torch.stack(masks).float()[:, None], encoder.grid).flatten(1)

    def read(self, category: Category, queries: tuple[Sample, ...], known: Known) -> Tensor:
        """What the classifier sees of the patches of queries."""
        return reading(self.scorer.tokens(self.model, category, queries), known)


def source_category(settings: Settings, name: str, part: str) -> Category:
    """The images of a source, a half of them or all, as an evaluation lists those of a target."""
    module = open_category(settings, name, part)
    normal = tuple(samples(module.train_data, LabelName.NORMAL))
    good = tuple(Sample(s.image, s.mask, GOOD) for s in samples(module.test_data, LabelName.NORMAL))
    defects = tuple(samples(module.test_data, LabelName.ABNORMAL))
    return Category(f"{name}-{part}", str(settings.data), normal, good, defects)


@torch.no_grad()
def episode(reader: Reader, category: Category, seed: int) -> tuple[Tensor, Tensor]:
    """What patches of some queries look like beside a normal and a pasted reference, and which are defective."""
    generator = torch.Generator().manual_seed(seed)

    def some(listed: tuple[Sample, ...], count: int) -> tuple[Sample, ...]:
        return tuple(listed[i] for i in torch.randperm(len(listed), generator=generator)[:count].tolist())

    draw = Draw(some(category.normal, 1), (), some(category.defects, QUERIES // 2) + some(category.good, QUERIES // 2))
    known = reader.references(category, draw, True, seed)
    seen, share = reader.read(category, draw.queries, known).flatten(0, 1), reader.labels(draw.queries).flatten()
    chosen = []
    for kind in (share.to(seen.device) >= 0.5, share.to(seen.device) == 0):
        places = kind.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator)[:PATCHES]
        chosen.append(places[order.to(places.device)])
    return seen[torch.cat(chosen)], torch.cat([torch.full((len(c),), 1.0 - i) for i, c in enumerate(chosen)])


def train(reader: Reader, sources: list[Category], seed: int) -> nn.Sequential:
    """A logistic regression of standardised values of patches; defective and other patches weigh the same."""
    found = [episode(reader, sources[i % len(sources)], 1000 * seed + i) for i in range(EPISODES)]
    seen, labels = (torch.cat(parts).to(device()) for parts in zip(*found, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.BatchNorm1d(seen.shape[1], momentum=None), nn.Linear(seen.shape[1], 1)).to(device())
    share = labels.mean()
    weights = torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(seen)[:, 0], labels, weights).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def score(
    reader: Reader, network: nn.Module, category: Category, draw: Draw, synthetic: bool, seed: int
) -> dict[str, float]:
    """Metrics of the queries of a draw."""
    scorer, core = reader.scorer, reader.model.model
    known = reader.references(category, draw, synthetic, seed)
    scores, maps = [], []
    for start in range(0, len(draw.queries), QUERIES):
        seen = reader.read(category, draw.queries[start : start + QUERIES], known)
        found = core.predictions(network(seen.flatten(0, 1))[:, 0].sigmoid().view(seen.shape[:2]))
        scores.append(found.pred_score.cpu())
        maps.append(scorer.resized(found.anomaly_map[:, 0]).cpu())
    return metrics_of(scorer.scored(category, draw, torch.cat(scores), torch.cat(maps)))


def runs(scorer: Scorer) -> Iterator[dict[str, object]]:
    """All trainings, targets, draws and kinds of references; the rule without training has no source."""
    settings, reader = scorer.settings, Reader(scorer)
    rule: Nagl = scorer.model("head_free")
    for name in track(settings.evaluated, transient=True):
        category, domain = scorer.category(name), settings.domain_of(name)
        draws = [
            (protocols.fixed(category, *shots, seed, settings.largest, settings.strategy, scorer.content), seed)
            for shots in settings.parsed_shots if shots.a
            for seed in range(settings.reference_seeds)
        ]  # fmt: skip
        for draw, seed in draws:
            cell = Cell("head_free", name, domain, len(draw.normal), len(draw.abnormal), seed, 0, "fixed")
            for kind in ("real", SYNTHETIC):
                made = None if kind == "real" else (kind, len(draw.abnormal), seed)
                found = metrics_of(scorer.score(rule, category, draw, "given", made))
                yield {**asdict(replace(cell, abnormal=kind)), **found}
        for source in settings.sources:
            names = settings.sources_of(source, name)
            part = "first" if source == "same_object" else "all"
            if not names:
                continue
            sources = [source_category(settings, each, part) for each in names]
            for training_seed in range(settings.training_seeds):
                network = train(reader, sources, training_seed)
                for draw, seed in draws:
                    counts = (len(draw.normal), len(draw.abnormal))
                    cell = Cell("vod", name, domain, *counts, seed, training_seed, "fixed", source)
                    for kind in ("real", SYNTHETIC):
                        found = score(reader, network, category, draw, kind == SYNTHETIC, seed)
                        yield {**asdict(replace(cell, abnormal=kind)), **found}


def gap_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over categories of the gaps ± their standard deviation over draws."""
    lines = []
    for setting in settings_of(rows):
        for gap in (gap for gap in GAPS if gap.name in ("object", "domain", "synthetic")):
            for metric in SHOWN:
                pairs, taken = measure(gap, rows_of(rows, setting), metric)
                if len(pairs):
                    by_seed = pairs.groupby("reference_seed")["value"].mean()
                    lines.append(
                        (
                            setting.model,
                            f"{gap.name}: {', '.join(dict.fromkeys(taken.values()))}",
                            metric,
                            _mean(by_seed),
                        )
                    )
    table = pd.DataFrame(lines, columns=["model", "gap", "metric", "value"])
    return table.pivot_table("value", ["gap", "model"], "metric", "first")[list(SHOWN)] if len(table) else table


def results_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over categories ± their standard deviation over draws, by model, source and kind of abnormal reference."""
    keys = ["model", "source", "abnormal"]
    by_seed = rows.groupby([*keys, "reference_seed"])[list(SHOWN)].mean()
    return by_seed.groupby(keys).agg(_mean)


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--beside", type=Path, help="folder of an evaluation whose heads are shown too")
    parser.add_argument("--rows", type=Path, nargs="+", help="compute nothing: vod.csv of earlier runs")
    given, rest = parser.parse_known_args()
    console = Console(width=160)
    if given.rows:
        rows = pd.concat([pd.read_csv(path) for path in given.rows], ignore_index=True)
    else:
        settings, _ = parse(["--config", str(given.config), "--models", "[normal_only, head_free]", *rest])
        settings = replace(settings, heads={**settings.heads, **HEADS})
        rows, path = pd.DataFrame(runs(Scorer(settings))), Path(settings.out) / "vod.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path, index=False)
        console.print(f"single runs in {path}", highlight=False)
    if given.beside:
        heads = read_results(given.beside, {})
        heads = heads[(heads["status"] == DONE) & (heads["training_seed"] >= 0) & (heads["protocol"] == "fixed")]
        rows = pd.concat([rows, heads[rows.columns]], ignore_index=True)
    console.print(results_table(rows).to_string(), highlight=False)
    console.print(f"gaps, the first setting minus the second\n{gap_table(rows).to_string()}", highlight=False)


if __name__ == "__main__":
    main()
