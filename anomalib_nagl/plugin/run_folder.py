"""The folder of a run: when ``latest`` points to it, where an export goes, and what people are told in the end."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from anomalib_nagl.plugin.run_callback import RunCallback

COMMANDS = ("anomalib", "anomalib-nagl")
WEIGHTS = Path("weights/lightning/model.ckpt")  # in the folder of a run that went well


def command_line() -> tuple[str, str]:
    """The program and the command that this process runs, empty where it is another program."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    name = "anomalib-nagl" if name == "cli.py" else name  # python -m
    return (name, sys.argv[1]) if name in COMMANDS and len(sys.argv) > 1 else ("", "")


class RunFolder(RunCallback):
    """Lets ``latest`` point to a run once it has gone well, and says which checkpoint it wrote and what comes next."""

    def __init__(self, trainer: Trainer, fitting: bool) -> None:
        self.folder = Path(trainer.default_root_dir)
        self.held_back = fitting and trainer.is_global_zero and _is_latest(self.folder)
        if self.held_back:
            _point_to(self.folder.parent / "latest", _last_success(self.folder))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """The checkpoint is complete: it may be found under ``latest``."""
        del trainer, pl_module
        if self.held_back:
            _point_to(self.folder.parent / "latest", self.folder)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Leave after a run; the last one of a command that trains says what it wrote."""
        super().teardown(trainer, pl_module, stage)
        program, command = command_line()
        written = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if (command, stage) in (("train", "test"), ("fit", "fit")) and written and trainer.is_global_zero:
            print(next_steps(program, Path(written)), flush=True)


def next_steps(program: str, checkpoint: Path) -> str:
    """What was written, and the commands that use it."""
    path = shlex.quote(str(shorter(checkpoint)))
    return (
        f"Checkpoint: {path}\n"
        "Next, score new images in a folder, or export the model:\n"
        f"  {program} predict --model Nagl --ckpt_path {path} --data FOLDER\n"
        f"  {program} export --model Nagl --ckpt_path {path} --export_type openvino"
    )


def shorter(path: Path) -> Path:
    """A path as seen from here, where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def export_folder(given: Path | str, checkpoint: Path | None) -> Path:
    """Where an export goes: beside the checkpoint when the command export names no folder, else where it says."""
    named = any(word.partition("=")[0] in ("--export_root", "--default_root_dir") for word in sys.argv)
    if command_line()[1] != "export" or named or checkpoint is None or Path(given) != Path("results"):
        return Path(given)
    folder = checkpoint.parent
    return folder.parents[1] if folder.parts[-2:] == WEIGHTS.parts[:2] else folder


def tell_export(written: Path) -> Path:
    """Say at the end of the command export what it wrote and what comes next; returns the path."""
    if command_line()[1] == "export":
        print(f"Written: {shlex.quote(str(shorter(written)))}", flush=True)
        if written.suffix == ".xml":
            print(
                "Next, score images with it, without torch:\n"
                f"  anomalib-nagl edge predict {shlex.quote(str(shorter(written)))} FOLDER --out RESULTS",
                flush=True,
            )
    return written


def _is_latest(folder: Path) -> bool:
    latest = folder.parent / "latest"
    return latest.is_symlink() and latest.resolve() == folder.resolve()


def _last_success(folder: Path) -> Path | None:
    """The newest other run of the same kind that has a complete checkpoint."""
    runs = [path for path in folder.parent.iterdir() if re.fullmatch(r"v\d+", path.name) and path.name != folder.name]
    complete = [path for path in runs if (path / WEIGHTS).is_file()]
    return max(complete, key=lambda path: int(path.name[1:]), default=None)


def _point_to(latest: Path, target: Path | None) -> None:
    """Move the link in one step, or take it away; a system without links keeps anomalib's own way."""
    if target is None:
        latest.unlink(missing_ok=True)
        return
    fresh = latest.with_name(f".latest.{target.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=True)
    fresh.replace(latest)
