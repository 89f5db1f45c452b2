"""Code blocks of README and manual: finding them, and running the commands in them on rendered images."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from support.commands import anomalib

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("python", "sh", "text")
PROGRAMS = ("anomalib", "anomalib-nagl", "make", "pip", "python")
_REASON = re.compile(r"<!-- not run: (.+) -->")

# What stands for the words in capitals.
PLACEHOLDERS = {
    "MODEL": "box/model.xml",
    "IMAGES...": "new_pictures",
    "DIR": "overlays",
    "LABELLED_DIR": "my_part",
    "IMAGE": "part.png",
    "MASK": "part_mask.png",
    "NAME": "part",
    "OLD_BANK": "box/model.bank",
    "NEW_MODEL": "model.xml",
}
# Added to every command that would build a model: no weights, few pixels, no images written.
GABOR = ("--model.backbone", "gabor", "--model.image_size", "128", "--model.visualizer", "false")
SHORT = ("--model.epochs", "1", "--data.episodes", "8", "--data.validation_episodes", "8")
TINY_EVALUATION = {
    "--targets": "[plate]",
    "--models": "[normal_only, nagl]",
    "--shots": "[1+1]",
    "--protocols": "[fixed]",
    "--reference_seeds": "1",
    "--epochs": "1",
    "--episodes": "8",
    "--image_size": "64",
    "--metric_size": "32",
}


class Block(NamedTuple):
    """A fenced block of a document; ``reason`` says why it is not run, if it is not."""

    document: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.document.relative_to(ROOT).as_posix()}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(document: Path) -> list[Block]:
    """Every fenced block of a document, but those that are directives of Sphinx."""
    found, start, above = [], None, ""
    lines = document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            above = line if start is None and line.strip() else above
        elif start is None:
            start, language = number, line.removeprefix("```")
        else:
            reason = _REASON.fullmatch(above)
            text = "\n".join(lines[start : number - 1])
            if not language.startswith("{"):
                found.append(Block(document, start, language, text, reason and reason[1]))
            start, above = None, ""
    return found


def run(words: Sequence[str]) -> None:
    """Run a command of ``anomalib`` or ``anomalib-nagl``; check the others without running them."""
    program, *arguments = words
    checks = {"make": _check_make, "pip": _check_pip, "python": _check_python}
    if program in checks:
        checks[program](arguments)
        return
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
    if program == "anomalib":
        anomalib(*arguments, *_tiny(arguments))
    else:
        tiny = TINY_EVALUATION.items() if arguments[0] == "evaluate" and "--report" not in arguments else ()
        extra = [word for option, value in tiny if option not in arguments for word in (option, value)]
        status = call("anomalib-nagl", *arguments, *extra)[0]
        found = "--exit-code" in arguments and status == 1  # something is defective
        assert status == 0 or found, f"exit status {status} of {words}"


def _tiny(arguments: Sequence[str]) -> Iterator[str]:
    """What makes a command of anomalib take seconds and fetch nothing."""
    if arguments[0] == "train" or (arguments[0] == "predict" and "--ckpt_path" not in arguments):
        yield from GABOR
    elif arguments[0] in ("predict", "test"):
        yield from GABOR[-2:]
    referenced = "ReferenceDataModule" in " ".join(arguments) or "--config" in arguments
    if referenced:
        yield from ("--data.num_workers", "0")
    if "--data.target" in arguments:
        yield from ("--data.target.num_workers", "0")
    if "--data.source" in arguments or any("quickstart" in word for word in arguments):
        yield from SHORT


def call(program: str, *arguments: str) -> tuple[int | str | None, str]:
    """Run our console script in this process: its exit status and what it printed."""
    from anomalib_nagl import cli

    before, out = sys.argv, io.StringIO()
    sys.argv = [program, *arguments]
    try:
        with contextlib.redirect_stdout(out):
            cli.main()
    except SystemExit as stop:
        return stop.code or 0, out.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue()


def _check_make(arguments: Sequence[str]) -> None:
    """Every target stands in the Makefile."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(arguments) <= set(targets), f"make {arguments}: the Makefile has {targets}"


def _check_pip(arguments: Sequence[str]) -> None:
    """What is installed from the clone is a project with those extras."""
    action, *options, target = arguments
    folder, _, extras = target.rstrip("]").partition("[")
    project = (ROOT / folder / "pyproject.toml").read_text()
    missing = [extra for extra in extras.split(",") if extra and f"\n{extra} = [" not in project]
    assert action == "install"
    assert set(options) <= {"-e"}
    assert not missing, f"{folder}/pyproject.toml has no extra {missing}"


def _check_python(arguments: Sequence[str]) -> None:
    """The script is there, and knows the options."""
    script, *rest = arguments
    out = io.StringIO()
    before = sys.argv
    sys.argv = [script, "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv = before
    unknown = [word for word in rest if word.startswith("-") and word not in out.getvalue()]
    assert not unknown, f"{script} does not know {unknown}"
