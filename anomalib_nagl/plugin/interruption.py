"""One line for people whose training was interrupted: how it goes on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

_COMMANDS = ("anomalib", "anomalib-nagl")
_RESUME = "--ckpt_path"


def tell_resume(trainer: Trainer, exception: BaseException) -> None:
    """Print on stderr how an interrupted fit goes on, once for all its processes; nothing after an error.

    An evaluation has a line of its own.
    """
    interrupted = isinstance(exception, (KeyboardInterrupt, SIGTERMException)) and trainer.state.fn == TrainerFn.FITTING
    if interrupted and trainer.is_global_zero and sys.argv[1:2] != ["evaluate"]:
        folder = Path(trainer.default_root_dir) / "weights/lightning"
        # A new line: the cursor may stand behind a progress bar.
        print(f"\n{resume_hint(folder, sys.argv)}", file=sys.stderr, flush=True)


def resume_hint(folder: Path, called: list[str]) -> str:
    """How a training goes on that saves its epochs in ``folder``, begun by a command or by a program."""
    last = folder / "last.ckpt"
    name = Path(called[0]).name if called else ""
    if name == "cli.py":  # python -m
        name = "anomalib-nagl"
    if not last.is_file():
        return "Interrupted before the first epoch was saved: the same command, or the same call of fit, begins anew."
    if name not in _COMMANDS:
        return f"Interrupted. Training goes on from its last finished epoch with fit(..., ckpt_path={str(last)!r})."
    return f"Interrupted. Training goes on with: {shlex.join([name, *_without_resume(called[1:]), _RESUME, str(last)])}"


def _without_resume(arguments: list[str]) -> list[str]:
    """Arguments without a checkpoint to go on from, written in one word or in two."""
    kept = [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if _RESUME not in (before, argument)
    ]
    return [argument for argument in kept if not argument.startswith(f"{_RESUME}=")]
