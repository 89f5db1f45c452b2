"""Running anomalib's commands in this process: the same parser and the same code as the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib.cli.cli import AnomalibCLI

from anomalib_nagl import cli
from support.places import CONFIGS

__all__ = ["CONFIGS", "anomalib", "anomalib_nagl", "metrics", "nagl"]


def anomalib(*arguments: object) -> AnomalibCLI:
    """Run ``anomalib ARGUMENTS``."""
    from anomalib.cli.cli import AnomalibCLI

    return AnomalibCLI(args=[str(argument) for argument in arguments])


def nagl(*arguments: object) -> int:
    """Run ``anomalib-nagl ARGUMENTS``; returns the exit status."""
    return cli.run([str(argument) for argument in arguments])


def metrics(cli: AnomalibCLI) -> dict[str, float]:
    """Metrics that the last test of a command printed."""
    return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}


def anomalib_nagl(name: str, *arguments: object) -> int:
    """Run the command ``anomalib-nagl NAME ARGUMENTS``; returns its exit status, its errors are raised."""
    return cli.load(name)([str(argument) for argument in arguments])
