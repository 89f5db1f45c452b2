"""Running anomalib's commands in this process: the same parser and the same code as the command line."""

from __future__ import annotations

from anomalib.cli.cli import AnomalibCLI

from anomalib_nagl import cli
from support.places import CONFIGS

__all__ = ["CONFIGS", "anomalib", "metrics", "nagl"]


def anomalib(*arguments: object) -> AnomalibCLI:
    """Run ``anomalib ARGUMENTS``."""
    return AnomalibCLI(args=[str(argument) for argument in arguments])


def nagl(*arguments: object) -> int:
    """Run ``anomalib-nagl ARGUMENTS``; returns the exit status."""
    return cli.run([str(argument) for argument in arguments])


def metrics(cli: AnomalibCLI) -> dict[str, float]:
    """Metrics that the last test of a command printed."""
    return {name: float(value) for name, value in cli.engine.trainer.callback_metrics.items()}
