"""What masks, thresholds and synthetic defects are worth, on real pictures of parts that the head has never seen.

    python examples/benchmarks/references.py --data datasets/real_small

Trains one head for each domain on the other domains (unless the heads are there already), encodes every picture once
and compares ways to use references on the tokens. For each seed the references are drawn anew; all columns of a table
share them, and are tested on the same pictures: those of the test split that are a reference in none. Image AUROC, and
AUROC of patches, where a patch is abnormal that holds a marked pixel. Writes one CSV row for every single run.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.metrics import F1AdaptiveThreshold
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchmetrics.functional.classification import binary_auroc, binary_f1_score
from torchvision.tv_tensors import Mask

from anomalib_nagl import Nagl, ReferenceSet
from anomalib_nagl.core.calibration import held_out_scores, threshold
from anomalib_nagl.core.functional import deviating_patches, image_score, mask_to_grid, nearest, unit
from anomalib_nagl.core.model import ReferenceTokens
from anomalib_nagl.core.reference_similarity import OwnedPatches, reference_similarity
from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.references.images import load_image, load_mask
from anomalib_nagl.references.reference_set import keep_thin
from anomalib_nagl.references.synthetic import with_synthetic

# Categories of one domain are held out together.
DOMAINS = {"magnetic_tile": "tile", "pcb_group_92000": "pcb", "pcb_group_00041": "pcb", "pavement_crack": "pavement"}
SHOTS = ((1, 1), (4, 2))


class Pictures(NamedTuple):
    """A category: paths, (P, M, C) tokens, (P, M) marked patches, defect types ("good"), and whether for training."""

    paths: list[Path]
    tokens: torch.Tensor
    marked: torch.Tensor
    types: list[str]
    train: list[bool]


class Run(NamedTuple):
    """One draw of references, the pictures that are tested, and patch scores that were computed already."""

    normal: list[int]
    abnormal: list[int]
    tested: list[int]
    known: dict[str, torch.Tensor]


def train_head(category: str, options: argparse.Namespace) -> Path:
    """Train a head on all categories of other domains, unless that was done before."""
    path: Path = options.heads / f"{DOMAINS[category]}.ckpt"
    if path.exists():
        return path
    sources = [name for name, domain in DOMAINS.items() if domain != DOMAINS[category]]
    fit_head(path, category, sources, options, "--model.epochs", options.epochs, "--data.episodes", 500)
    return path


def fit_head(path: Path, target: str, sources: list[str], options: argparse.Namespace, *more: object) -> None:
    """Train a head on some categories and keep its checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "fit", "--model", "Nagl", "--model.backbone", options.backbone, "--model.image_size", options.image_size,
        "--model.visualizer", "false", "--data", "ReferenceDataModule", "--data.target", "MVTecAD",
        "--data.target.root", options.data, "--data.target.category", target, "--data.target.num_workers", 0,
        "--data.source", "MVTecAD", "--data.source.root", options.data, "--data.source.category", sources[0],
        "--data.source.num_workers", 0, "--data.source_categories", f"[{','.join(sources)}]",
        "--default_root_dir", path.parent / "runs", *more,
    ]  # fmt: skip
    cli = AnomalibCLI(args=[str(argument) for argument in arguments])
    shutil.copy(cli.engine.trainer.checkpoint_callback.best_model_path, path)


def encode(category: str, model: Nagl, root: Path) -> Pictures:
    """Tokens of every picture of a category."""
    paths = sorted((root / category / "train/good").glob("*.png")) + sorted((root / category / "test").glob("*/*.png"))
    tokens, marked = [], []
    for path in track(paths, description=f"Encoding {category}", transient=True):
        truth = root / category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        tokens.append(encode_one(model, load_image(path)))
        mask = load_mask(truth, str(path)) if truth.exists() else torch.zeros(8, 8)
        marked.append(grid_of(model, mask))
    types = [path.parent.name for path in paths]
    return Pictures(paths, torch.stack(tokens), torch.stack(marked), types, [p.parts[-3] == "train" for p in paths])


@torch.no_grad()
def encode_one(model: Nagl, image: torch.Tensor) -> torch.Tensor:
    """Tokens (M, C) of an image."""
    return model.model.encode(model.pre_processor.transform(image)[None])[0]


def grid_of(model: Nagl, mask: torch.Tensor) -> torch.Tensor:
    """Marked patches (M,) of a mask (H, W)."""
    resized = model.pre_processor.transform.transforms[0](Mask(mask)).as_subclass(torch.Tensor)
    return mask_to_grid(keep_thin(resized, mask)[None, None].float(), model.model.encoder.grid)[0, 0]


def draw(pictures: Pictures, n: int, a: int, seed: int) -> Run:
    """References by seed, and what is left to test."""
    generator = np.random.default_rng([seed, 11])
    places = np.arange(len(pictures.paths))
    normal = generator.permutation(places[np.array(pictures.train)])[:n]
    defective = [i for i in places if not pictures.train[i] and pictures.types[i] != "good"]
    abnormal = generator.permutation(defective)[:a]
    tested = [int(i) for i in places if not pictures.train[i] and i not in abnormal]
    return Run(normal.tolist(), abnormal.tolist(), tested, {})


@torch.no_grad()
def score(model: Nagl, references: ReferenceTokens, queries: torch.Tensor) -> torch.Tensor:
    """Patch scores of queries (P, M, C)."""
    grid, head = model.model.encoder.grid, model.model.head
    bank, proxies, defects = (part[None] for part in head.learn(*references, grid))
    return torch.cat([head.detect(chunk, bank, proxies, grid, defects).score for chunk in queries.split(32)])


def reference_tokens(pictures: Pictures, run: Run, masks: str) -> ReferenceTokens:
    """Tokens of the references with their masks, without, or with whole pictures marked; or no abnormal ones."""
    normal, abnormal = pictures.tokens[run.normal], pictures.tokens[run.abnormal]
    marked = pictures.marked[run.abnormal]
    located = torch.full((len(abnormal),), masks == "given")
    if masks == "none":
        return ReferenceTokens(normal, abnormal[:0], marked[:0], located[:0])
    if masks == "found":
        marked = deviating_patches(1 - nearest(unit(abnormal), unit(normal.flatten(0, 1))[None]).similarity)
    if masks == "whole":
        marked = torch.ones_like(marked)
    return ReferenceTokens(normal, abnormal, marked, located)


def score_with(model: Nagl, pictures: Pictures, run: Run, masks: str) -> torch.Tensor:
    """Patch scores of the tested pictures by references with such masks, computed once for all experiments."""
    if masks not in run.known:
        run.known[masks] = score(model, reference_tokens(pictures, run, masks), pictures.tokens[run.tested])
    return run.known[masks]


def synthetic_tokens(model: Nagl, pictures: Pictures, run: Run, kind: str, count: int, seed: int) -> ReferenceTokens:
    """Tokens of normal references and of defective ones made from them."""
    normal = ReferenceSet(normal=tuple(load_image(pictures.paths[i]) for i in run.normal))
    made = with_synthetic(normal, count, kind, seed)
    marked = [grid_of(model, mask) for mask in made.masks if mask is not None]
    tokens = [encode_one(model, image) for image in made.abnormal]
    located = torch.ones(len(tokens), dtype=torch.bool)
    return ReferenceTokens(pictures.tokens[run.normal], torch.stack(tokens), torch.stack(marked), located)


def aurocs(pictures: Pictures, run: Run, scores: torch.Tensor) -> dict[str, float]:
    """Image and patch AUROC of tested pictures."""
    labels = torch.tensor([pictures.types[i] != "good" for i in run.tested]).int()
    patches = pictures.marked[run.tested].flatten().int()
    return {
        "image": float(binary_auroc(image_score(scores), labels)),
        "patch": float(binary_auroc(scores.flatten(), patches)),
    }


def decisions(pictures: Pictures, run: Run, scores: torch.Tensor, at: float) -> dict[str, float]:
    """F1, false alarms on good pictures and recall of a threshold."""
    labels = torch.tensor([pictures.types[i] != "good" for i in run.tested])
    alarms = image_score(scores) > at
    return {
        "F1": float(binary_f1_score(alarms.int(), labels.int())),
        "false alarms": float(alarms[~labels].float().mean()),
        "recall": float(alarms[labels].float().mean()),
    }


def compare_masks(model: Nagl, pictures: Pictures, run: Run, seed: int) -> dict[str, dict[str, float]]:
    """AUROC with masks, with found ones, with whole pictures, and with normal references only."""
    del seed
    return {
        masks: aurocs(pictures, run, score_with(model, pictures, run, masks))
        for masks in ("given", "found", "whole", "none")
    }


def compare_synthetic(model: Nagl, pictures: Pictures, run: Run, seed: int) -> dict[str, dict[str, float]]:
    """AUROC without defects, with synthetic ones, and with as many real ones."""
    queries, count = pictures.tokens[run.tested], len(run.abnormal)
    made = {
        name: score(model, synthetic_tokens(model, pictures, run, kind, count, seed), queries)
        for name, kind in (("cut and paste", "cut_paste"), ("Perlin", "perlin"))
    }
    ways = {"none": score_with(model, pictures, run, "none"), **made, "real": score_with(model, pictures, run, "given")}
    return {name: aurocs(pictures, run, scores) for name, scores in ways.items()}


def compare_thresholds(model: Nagl, pictures: Pictures, run: Run, seed: int) -> dict[str, dict[str, float]]:
    """Decisions by thresholds from the references, and by anomalib's rule, which sees the labels of the test."""
    del seed
    found = {}
    head, grid = model.model.head, model.model.encoder.grid
    labels = torch.tensor([pictures.types[i] != "good" for i in run.tested])
    for masks, name in (("none", "normal only"), ("given", "normal and abnormal")):
        tokens = reference_tokens(pictures, run, masks)
        scores = score_with(model, pictures, run, masks)
        with torch.no_grad():
            held_out = held_out_scores(head, tokens, head.learn(*tokens, grid), grid)
        at = threshold(*(image_score(one) for one in held_out))
        adaptive = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
        adaptive.update(SimpleNamespace(pred_score=image_score(scores), gt_label=labels.int()))
        found[f"{name}, references"] = decisions(pictures, run, scores, at)
        found[f"{name}, F1-adaptive"] = decisions(pictures, run, scores, float(adaptive.compute()))
    return found


def compare_nearest(model: Nagl, pictures: Pictures, run: Run, seed: int) -> dict[str, dict[str, float]]:
    """How often the nearest reference has the kind and the type of the query, with one reference of each type."""
    types = sorted({pictures.types[i] for i in run.tested} - {"good"})
    generator = np.random.default_rng([seed, 13])
    chosen = [int(generator.choice([i for i in run.tested if pictures.types[i] == kind])) for kind in types]
    marked = pictures.marked[chosen]
    located = torch.ones(len(chosen), dtype=torch.bool)
    tokens = ReferenceTokens(pictures.tokens[run.normal], pictures.tokens[chosen], marked, located)
    tested = [i for i in run.tested if i not in chosen]
    queries = pictures.tokens[tested]
    marks = OwnedPatches(tokens.abnormal[marked > 0], (marked > 0).nonzero()[:, 0], len(chosen))
    n, size = tokens.normal.shape[:2]
    known = OwnedPatches(tokens.normal.flatten(0, 1), torch.arange(n).repeat_interleave(size), n)
    scores = score(model, tokens, queries)
    parts = zip(queries.split(16), scores.split(16), strict=True)
    alike = torch.cat([reference_similarity(query, one, known, marks) for query, one in parts])
    best, best_abnormal = alike.argmax(1), alike[:, n:].argmax(1)
    good = torch.tensor([pictures.types[i] == "good" for i in tested])
    right = torch.tensor([types[best_abnormal[j]] == pictures.types[i] for j, i in enumerate(tested)])
    shares = {"good like normal": (best < n)[good], "defect like abnormal": (best >= n)[~good], "type": right[~good]}
    return {"nearest": {key: float(value.float().mean()) for key, value in shares.items()} | {"chance": 1 / len(types)}}


EXPERIMENTS = {way.__name__[8:]: way for way in (compare_masks, compare_thresholds, compare_synthetic, compare_nearest)}


def tabulate(title: str, rows: list[dict[str, Any]]) -> Table:
    """Mean and standard deviation over the seeds: a row for each category and number of shots, then their mean."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    metrics = [key for key in rows[0] if key not in ("experiment", "category", "n", "a", "seed", "way")]
    table = Table(title=f"{title}: {' / '.join(metrics)}, mean ± standard deviation over the seeds")
    for column in ("category", "n + a", *ways):
        table.add_column(column)
    for shots in dict.fromkeys((row["n"], row["a"]) for row in rows):
        for category in [*dict.fromkeys(row["category"] for row in rows), "mean"]:
            cells = []
            for way in ways:
                found = [
                    [row[m] for m in metrics] for row in rows
                    if row["way"] == way and (row["n"], row["a"]) == shots and category in (row["category"], "mean")
                ]  # fmt: skip
                means, spread = np.mean(found, axis=0), [f"±{value:.3f}" for value in np.std(found, axis=0)]
                spread = [""] * len(means) if category == "mean" else spread
                cells.append(" / ".join(f"{mean:.3f}{more}" for mean, more in zip(means, spread, strict=True)))
            table.add_row(category, f"{shots[0]} + {shots[1]}", *cells)
        table.add_section()
    return table


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser of what both scripts on these pictures want to know."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("datasets/real_small"), help="MVTec-style categories")
    parser.add_argument("--backbone", default="local-dir:weights/mobilenetv2_100_tfsame")
    parser.add_argument("--image_size", type=int, default=384)
    return parser


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns))
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_bytes(path, text.getvalue().encode())


def main() -> None:
    """Run the experiments."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="of training a head, 500 episodes each")
    parser.add_argument("--seeds", type=int, default=5, help="draws of references")
    parser.add_argument("--heads", type=Path, default=Path("results/benchmarks/heads"), help="trained when missing")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/references.csv"))
    parser.add_argument("--categories", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for category in options.categories:
        model = Nagl.load_from_checkpoint(train_head(category, options)).eval()
        pictures = encode(category, model, options.data)
        draws = [(n, a, seed) for n, a in SHOTS for seed in range(options.seeds)]
        for n, a, seed in track(draws, description=f"Comparing on {category}", transient=True):
            run = draw(pictures, n, a, seed)
            for experiment in options.experiments:
                found = EXPERIMENTS[experiment](model, pictures, run, seed)
                common = {"experiment": experiment, "category": category, "n": n, "a": a, "seed": seed}
                rows += [{**common, "way": way, **values} for way, values in found.items()]
    write_csv(options.out, dict.fromkeys(key for row in rows for key in row), rows)
    console = Console(width=200)
    for experiment in options.experiments:
        console.print(tabulate(experiment.capitalize(), [row for row in rows if row["experiment"] == experiment]))
    console.print(f"Single runs: {options.out}")


if __name__ == "__main__":
    main()
