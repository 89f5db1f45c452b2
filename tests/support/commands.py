"""Running anomalib's commands in this process: the same parser and the same code as the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_nagl import cli

if TYPE_CHECKING:
    from anomalib.cli.cli import AnomalibCLI

CONFIGS = Path(__file__).parents[2] / "configs"


def anomalib(*arguments: object) -> AnomalibCLI:
    """Run ``anomalib ARGUMENTS``."""
    from anomalib.cli.cli import AnomalibCLI

    return AnomalibCLI(args=[str(argument) for argument in arguments])


def metrics(cli: AnomalibCLI) -> dict[str, float]:
    """Metrics that the last test of a command printed."""
    return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


def anomalib_nagl(*arguments: object) -> int:
    """Run ``anomalib-nagl ARGUMENTS``; returns its exit status, ValueError with the message of an error."""
    before = sys.argv
    sys.argv = ["anomalib-nagl", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            raise ValueError(end.code) from None
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
