"""``anomalib-nagl edge``: predict with an exported model and change its references, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from anomalib_nagl.commands import edge_bank, edge_merge, edge_watch, inspection
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.edge.inspection import EdgeScorer
from anomalib_nagl.io import exit_codes


def main(arguments: Sequence[str]) -> int:
    """Run ``edge`` with these arguments; returns the exit status. ValueError or OSError when the input will not do."""
    given, program = edge_watch.split_program(arguments)
    options = _parser().parse_args(given, argparse.Namespace(program=program))
    if "model" in options:
        edge_bank.check_model(options.model)
    run: Callable[[argparse.Namespace], int | None] = options.run
    return run(options) or exit_codes.DONE


def predict(options: argparse.Namespace) -> int:
    """Score every image: a row of the table, and a picture. Returns the exit status."""
    work = inspection.plan(options.images, options.out)
    precision = None if options.precision == "device" else options.precision
    detector = NaglEdge(options.model, options.device, precision, options.requests, options.bank)
    return inspection.run("edge", work, EdgeScorer(detector), options, options.requests)


def _parser() -> Parser:
    parser = Parser(prog="anomalib-nagl edge", description="Predict with an exported model and change its references.")
    scoring, watching, merging, comparing, *others = parser.add_commands(
        ("predict", "score images into predictions.csv and overlays"),
        *edge_watch.COMMANDS,
        *edge_merge.COMMANDS,
        *edge_bank.COMMANDS,
    )
    scoring.set_defaults(run=predict)
    scoring.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export")
    scoring.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help="images, or folders of images")
    scoring.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the table and the overlays")
    inspection.add_options(scoring)
    scoring.add_argument("--precision", default="f32", choices=["f32", "bf16", "f16", "device"])
    scoring.add_argument("--device", default="CPU", help="device of OpenVINO, such as CPU or GPU")
    scoring.add_argument("--requests", type=int, default=1, metavar="COUNT", help="images computed at once")
    scoring.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
    edge_watch.describe([watching])
    edge_merge.describe([merging, comparing])
    edge_bank.describe(others)
    return parser
