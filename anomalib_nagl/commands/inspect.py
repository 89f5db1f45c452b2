"""``anomalib-nagl inspect``: from pictures, and references or a model, to a verdict for each; with torch or without."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anomalib_nagl.bank.verdicts import REVIEW, Rules
from anomalib_nagl.commands import inspection
from anomalib_nagl.commands.inspection import Scorer, Source
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.io import exit_codes
from anomalib_nagl.io.errors import printable
from anomalib_nagl.io.export_manifest import exported_model
from anomalib_nagl.io.prediction_table import PredictionRow, PredictionTable
from anomalib_nagl.io.prediction_text import WRONG_VERDICT

OUT = Path("inspection")
CHECKPOINTS = (".ckpt", ".pt", ".pth")


def main(arguments: Sequence[str]) -> int:
    """Run ``inspect`` with these arguments; returns the exit status; ValueError or OSError for a wrong call."""
    options = _parser().parse_args(arguments)
    work = None if options.scheduler else inspection.plan([_path(one) for one in options.images], options.out)
    scorer = load_scorer(options.references, options.model, options.backbone)
    for remark in scorer.remarks:
        print(remark)
    status = _on_cluster(scorer, options) if work is None else inspection.run("inspect", work, scorer, options)
    if status in (exit_codes.DONE, exit_codes.DEFECTIVE, exit_codes.FAILED_ITEMS):
        print(printable(_next_steps(options.references, options.model)))
    return status


def _path(given: str) -> Path:
    if "://" in given:
        raise ValueError(
            f"found the address {given}, expected the path of an image or a folder: give --scheduler local:1 for "
            "images in buckets"
        )
    return Path(given)


def _on_cluster(scorer: Scorer, options: argparse.Namespace) -> int:
    try:
        from anomalib_nagl.commands import partitions
    except ImportError as error:
        raise ValueError(
            f"found no {error.name} here, expected it to be installed: --scheduler needs anomalib-nagl: pip install "
            "'anomalib-nagl[cluster]', in an environment without anomalib-nagl-edge"
        ) from error
    return partitions.run(options, scorer)


def _next_steps(references: Path | None, model: Path | None) -> str:
    """What to do about a verdict that is wrong, and how to keep what was made of references."""
    if references is not None:
        keep = shlex.join(["anomalib-nagl", "train", "--config", "own_parts", "--data.references", str(references)])
        good, defects, masks = (references / name for name in ("good", "defects", "masks"))
        return (
            f"A verdict is wrong? Put a false alarm into {good}, a miss into {defects} and its mask into {masks}.\n"
            f"To keep the model: {keep}"
        )
    if model is None or model.suffix in CHECKPOINTS:
        return WRONG_VERDICT
    teach = f"anomalib-nagl edge add-defect {shlex.quote(str(exported_model(model)))} IMAGE --mask MASK"
    return f"A verdict is wrong? Teach the model: {teach}, or add-normal."


def _parser() -> Parser:
    parser = Parser(
        prog="anomalib-nagl inspect",
        description="Say of each image whether it is good, defective or to be looked at again: by reference images of "
        "the part alone (--references), or by a model that knows the part (--model). Nothing is trained.",
    )
    parser.add_argument("images", nargs="+", metavar="NEW", help="images, or folders of images")
    parser.add_argument(
        "--references", type=Path, metavar="DIR", help="folder with good/, defects/ and masks/ of this part"
    )
    parser.add_argument(
        "--model", type=Path, metavar="PATH", help="checkpoint, or export (model.xml or its folder), instead"
    )
    parser.add_argument("--backbone", metavar="NAME", help="what compares images, with --references; as of Nagl")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help=f"folder for the table and the pictures; {OUT} if left out"
    )
    inspection.add_options(parser)
    parser.add_argument(
        "--scheduler", metavar="ADDRESS",
        help="for very many images, in buckets (s3://...) too: Dask scheduler (tcp://HOST:8786) whose workers inspect "
        "them, or local:N for N workers here; writes the table alone",
    )  # fmt: skip
    parser.add_argument(
        "--partition", type=int, default=1000, metavar="N", help="images that a worker is given at a time; 1000"
    )
    return parser


def inspect(
    images: Any,
    references: Any = None,
    model: str | Path | None = None,
    backbone: str | None = None,
    out: str | Path | None = None,
    threshold: float | None = None,
    review: float = REVIEW,
    min_area: float = 0.0,
    pixel_size: float | None = None,
) -> list[PredictionRow]:
    """Say of each image whether it is good, defective or to be looked at again, as ``anomalib-nagl inspect`` does.

    ``images`` are the path of an image or a folder, an array (H, W, 3), or a list of such. They are compared with
    ``references``, the folder of a part or a ``ReferenceSet``, or by a ``model``, a checkpoint or an export, which
    works without torch. Scores above ``threshold`` are defective, those within ``review`` of it are to be looked at
    again; regions smaller than ``min_area`` (pixels, or mm² of pixels ``pixel_size`` mm wide) do not make a part
    defective. With ``out``, table and pictures are written there. Raises ValueError where references or model will not
    do; an image that fails has the reason in its row.
    """
    sources = _sources(images)
    scorer = load_scorer(references, model, backbone)
    rules = Rules(
        scorer.threshold if threshold is None else threshold, scorer.pixel_threshold, review, min_area, pixel_size
    ).check()
    if out is None:
        return [one.row for one in inspection.inspect_all(scorer, sources, rules, drawn=False)]
    work = inspection.place(sources, Path(out))
    rows = []
    with PredictionTable(work.table) as table:
        for row in inspection.written(inspection.inspect_all(scorer, sources, rules), work.pictures):
            table.write(row)
            rows.append(row)
    return rows


def _sources(images: Any) -> list[Source]:
    """Images as they were given, each with a name."""
    several = isinstance(images, Iterable) and not isinstance(images, str | Path) and not hasattr(images, "ndim")
    found: list[Source] = []
    for one in images if several else [images]:
        if isinstance(one, str | Path):
            found += inspection.sources_of([Path(one)])
        else:
            found.append(Source(f"image {len(found)}", one))
    return found


def load_scorer(references: Any, model: str | Path | None, backbone: str | None = None) -> Scorer:
    """What inspects images; ValueError unless there is one of references and model, and it will do."""
    if (references is None) == (model is None):
        found = "neither references nor a model" if model is None else "references and a model"
        raise ValueError(
            f"found {found}, expected one of them: --references DIR with good/ and defects/ of this part, or --model "
            "with a checkpoint or an export"
        )
    if model is not None and backbone is not None:
        raise ValueError(
            "found --backbone beside --model, expected one of them: a model compares images with what it was made with"
        )
    if model is None:
        return _torch("--references").from_references(references, backbone)
    path = Path(model)
    if path.suffix in CHECKPOINTS:
        return _torch("a checkpoint").from_checkpoint(path)
    # Imported late: a box may inspect without torch, and a desk without OpenVINO.
    from anomalib_nagl.edge.detector import NaglEdge
    from anomalib_nagl.edge.inspection import EdgeScorer

    return EdgeScorer(NaglEdge(exported_model(path)))


def _torch(what: str) -> Any:
    try:
        from anomalib_nagl.plugin.inspection import TorchScorer
    except ImportError as error:
        raise ValueError(
            f"found no {error.name or 'torch'} here, expected it to be installed: {what} needs all of anomalib-nagl; "
            "on a box give --model with an exported model.xml"
        ) from error
    return TorchScorer
