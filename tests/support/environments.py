"""Throw-away virtual environments for the tests of the installed plugin.

Every environment is bare and borrows the heavy packages of the running one through a plain path line. Such a line runs
no nested ``.pth`` file, and it comes after the environment's own files: what is tested is the copy installed there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


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


def execute(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ANOMALIB_NAGL_AUTOLOAD")}
    # No program compiles an altered file over what pip compiled.
    environment = clean | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def pip(*arguments: str, cwd: Path) -> None:
    done = execute([sys.executable, "-m", "pip", "--isolated", *arguments], cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def make_environment(folder: Path, requirement: list[str]) -> Environment:
    done = execute([sys.executable, "-m", "venv", "--without-pip", str(folder)], cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(execute([str(python), "-c", where], cwd=folder).stdout.strip())
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # The name sorts last, behind the files of the plugin.
    (site / "zz_borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    # Forced, because the borrowed packages may include an installation of this very version.
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--force-reinstall", "--quiet"]
    pip("--python", str(python), "install", *offline, *requirement, cwd=folder)
    package = ROOT if "--editable" in requirement else site
    return Environment(python, site, package / "anomalib_nagl")


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
