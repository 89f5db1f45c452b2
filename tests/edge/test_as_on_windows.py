"""What Windows lacks or forbids, taken away here: forks, pipes, signals, and replacing a file that is open or mapped.

This is no Windows: names of drives, its console and its own locks are not tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is open cannot be looked up here"),
]

WINDOWS = """
import builtins, os, signal, sys

for name in ("fork", "forkpty", "mkfifo", "O_NONBLOCK", "register_at_fork", "getuid", "geteuid", "getgid", "chown"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
MISSING = {"fcntl", "resource", "pwd", "grp", "termios"}
for name in MISSING:
    sys.modules.pop(name, None)


class Block:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Block())
os.environ["USERNAME"] = "somebody"


def in_use(path):
    path = os.path.realpath(path)
    files = (os.path.join("/proc/self/fd", one) for one in os.listdir("/proc/self/fd"))
    with open("/proc/self/maps") as maps:
        mapped = any(line.rstrip().endswith(path) for line in maps)
    return mapped or any(os.path.lexists(one) and os.path.realpath(one) == path for one in files)


def forbid(function, *places):
    def checked(*paths, **options):
        for place in places:
            if os.path.exists(paths[place]) and in_use(paths[place]):
                raise PermissionError(13, "The process cannot access the file because it is being used", paths[place])
        return function(*paths, **options)
    return checked


os.replace, os.rename = forbid(os.replace, 0, 1), forbid(os.rename, 0, 1)
os.unlink = os.remove = forbid(os.unlink, 0)
"""


def run(code: str, folder: Path) -> str:
    """What a program prints that has only what Windows has; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", WINDOWS + code], cwd=folder, capture_output=True,
        text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_forbidden_here_is_forbidden_indeed(tmp_path: Path) -> None:
    said = run(
        """
open("a", "w").close()
open("b", "w").close()
with open("b") as file:
    try:
        os.replace("a", "b")
    except PermissionError:
        print("kept")
os.replace("a", "b")
print(os.listdir("."), hasattr(os, "fork"), hasattr(signal, "SIGKILL"))
""",
        tmp_path,
    )
    assert said.splitlines() == ["kept", "['b'] False False"]


def test_a_box_predicts_and_is_taught(exported: Path, tmp_path: Path) -> None:
    """Its files are written in one step, over those that it has read, and its command line ends in good order."""
    said = run(
        f"""
import numpy as np
from pathlib import Path
from PIL import Image
from anomalib_nagl import NaglEdge, cli

model, out = Path({str(exported)!r}), Path("out")
image = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)
Image.fromarray(image).save("part.png")
detector = NaglEdge(model, author=None)
before = detector.predict(image).score
detector.add_normal(image, name="part")
after = detector.predict(image).score
detector.bake("taught.xml")
detector.bake(model)  # over the file that it was made of
detector.undo()
print(abs(before - NaglEdge(model).predict(image).score) < 1e-6, after < before)
print(cli.run(["edge", "predict", str(model), "part.png", "--out", "out", "--threshold", "0.5"]))
print(cli.run(["inspect", "part.png", "--model", str(model), "--out", "out", "--threshold", "0.5"]))
print(sorted(path.name for path in out.iterdir()))
try:
    cli.run(["edge", "list", "nowhere.xml"])
finally:
    print("end")
""",
        tmp_path,
    )
    lines = said.splitlines()
    assert "True True" in lines
    assert [line for line in lines if line in ("0", "['part.png', 'predictions.csv']", "end")] == [
        "0", "0", "['part.png', 'predictions.csv']", "end",
    ]  # fmt: skip


def test_jobs_run_in_processes_that_are_spawned(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("def double(job):\n    return 2 * job\n", encoding="utf-8")
    said = run(
        """
sys.path.insert(0, ".")
from pathlib import Path
from job import double
from anomalib_nagl.evaluation.executors import run_jobs
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
if __name__ == "__main__":
    pool = lambda at_once: ProcessPoolExecutor(at_once, get_context("spawn"))
    print(sorted(one.value for one in run_jobs(double, range(5), pool, 2)))
""",
        tmp_path,
    )
    assert said.splitlines()[-1] == "[0, 2, 4, 6, 8]"
