"""Throw-away virtual environments for the tests of the installed plugin.

Every environment is bare and borrows the heavy packages of the running one through a plain path line. Such a line runs
no nested ``.pth`` file, and it comes after the environment's own files: what is tested is the copy installed there.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.once import once
from support.places import ROOT

OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
# Folders of the projects that are installed, by the kind of environment.
PROJECTS = {"wheel": ROOT, "edge": ROOT / "edge", "editable": ROOT}


class Environment(NamedTuple):
    """A throw-away virtual environment with the plugin in it."""

    python: Path
    site: Path
    package: Path

    def run(self, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a folder that holds nothing to import."""
        return execute([str(self.python), *options, "-c", code], cwd=self.python.parent, **variables)

    def report(self, code: str, *options: str, **variables: str) -> Any:
        """What the program printed last, as JSON; the program must succeed."""
        done = self.run(code, *options, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def pip(self, *arguments: str) -> None:
        """Run the pip of the testing environment on this one, without a network."""
        pip("--python", str(self.python), *arguments, cwd=self.python.parent)

    def install(self, *requirement: str) -> None:
        """Install one of our distributions."""
        # Forced, because the borrowed packages may include an installation of this very version.
        self.pip("install", *OFFLINE, "--force-reinstall", *requirement)


def execute(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ANOMALIB_NAGL_AUTOLOAD")}
    # No program compiles an altered file over what pip compiled.
    environment = clean | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def pip(*arguments: str, cwd: Path) -> None:
    done = execute([sys.executable, "-m", "pip", "--isolated", *arguments], cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def make_environment(folder: Path, requirement: list[str]) -> Environment:
    """Make a virtual environment and install into it."""
    done = execute([sys.executable, "-m", "venv", "--without-pip", str(folder)], cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    environment = environment_at(folder, "--editable" in requirement)
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # The name sorts last, behind the files of the plugin.
    (environment.site / "zz_borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    environment.install(*requirement)
    return environment


def environment_at(folder: Path, editable: bool) -> Environment:
    """Describe an environment that has been made."""
    base = {"base": str(folder), "platbase": str(folder)}
    scripts, site = (Path(sysconfig.get_path(kind, "venv", base)) for kind in ("scripts", "purelib"))
    return Environment(scripts / "python", site, (ROOT if editable else site) / "anomalib_nagl")


class Environments:
    """Environments and wheels that the whole run shares, each made when a test first asks for it.

    A test that alters one puts it back; tests that alter the same one are in one file, which one process runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wheel(self, kind: str = "wheel") -> Path:
        """Build a distribution, or find the wheel built before."""

        def build(folder: Path) -> None:
            pip("wheel", *OFFLINE, "-w", str(folder), str(PROJECTS[kind]), cwd=folder)

        return next(once(self.folder / f"{kind}.wheel", build).glob("*.whl"))

    def requirement(self, kind: str) -> list[str]:
        """Say what pip installs into an environment of this kind."""
        return ["--editable", str(PROJECTS[kind])] if kind == "editable" else [str(self.wheel(kind))]

    def __getitem__(self, kind: str) -> Environment:
        """Make an environment of a kind of ``PROJECTS``, or find the one made before."""
        requirement = self.requirement(kind)
        folder = once(self.folder / f"{kind}.venv", lambda folder: make_environment(folder, requirement))
        return environment_at(folder, kind == "editable")


@contextmanager
def altered(file: Path, text: str | None) -> Iterator[None]:
    """Another content for a file of an installed plugin, or none at all, for a while."""
    # Moved, not rewritten: the compiled copy stays valid only as long as the file's time of change is the same.
    aside = file.rename(file.with_suffix(".aside"))
    try:
        if text is not None:
            file.write_text(text)
        yield
    finally:
        aside.replace(file)
