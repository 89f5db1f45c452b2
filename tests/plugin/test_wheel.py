"""The wheel as it would be given away: what is in it, what it says of itself, and that a damaged one is noticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support.environments import Environments
from support.places import ROOT
from support.wheel_check import lay_out, problems, readme_commands


def test_nothing_is_wrong_with_the_wheel(environments: Environments) -> None:
    assert list(problems(environments.wheel())) == []


def test_what_is_wrong_with_a_wheel_is_said(environments: Environments, tmp_path: Path) -> None:
    wheel = tmp_path / "altered.whl"
    with zipfile.ZipFile(environments.wheel()) as given, zipfile.ZipFile(wheel, "w") as altered:
        for name in given.namelist():
            content = given.read(name)
            if name.endswith("METADATA"):
                content = content.replace(b"License-Expression: Apache-2.0\n", b"").replace(b"<2.8", b"<3")
            if not name.endswith(("cli.py", "/NOTICE")):
                altered.writestr(name, content)
        altered.writestr("anomalib_nagl/notes.txt", "x")
        altered.writestr("other.py", "")
        altered.writestr("anomalib_nagl/big.safetensors", bytes(5_000_000))
    said = "\n".join(problems(wheel))
    for words in (
        "bytes, expected at most", "holds anomalib_nagl/notes.txt, which nothing reads", "holds other.py outside",
        "lacks anomalib_nagl/cli.py", "no License-Expression", "expected anomalib[openvino]>=2.7,<2.8 among them",
        "NOTICE is not that of the repository", "weights anomalib_nagl/big.safetensors, of which NOTICE does not say",
    ):  # fmt: skip
        assert words in said


def test_twine_has_nothing_to_say(environments: Environments) -> None:
    pytest.importorskip("twine", reason="twine is not installed")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(environments.wheel())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_readmes_first_command_runs_with_the_wheel_alone(environments: Environments, tmp_path: Path) -> None:
    first, *others = readme_commands()
    assert first[:2] == ["anomalib-nagl", "inspect"]
    assert len(others) >= 3
    scripts = environments["wheel"].python.parent
    lay_out(scripts / "python", tmp_path)
    program = shutil.which("anomalib-nagl", path=str(scripts))
    assert program is not None
    done = subprocess.run([program, *first[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "inspection/predictions.csv").is_file()


def test_the_lowest_constraints_are_the_bounds() -> None:
    """Every dependency has a bound, and that is what `make test-lowest` installs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    blocks = (
        re.search(rf"^{name} = \[(.*?)\]\n", text, re.DOTALL | re.MULTILINE)
        for name in ("dependencies", "cluster", "app")
    )
    listed = [Requirement(one) for block in blocks if block for one in re.findall(r'"([^"]+)"', block[1])]
    bounds = {one.name: min(part.version for part in one.specifier if part.operator == ">=") for one in listed}
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()[1:]
    lowest = dict(line.split("==") for line in lines)
    assert set(lowest) == set(bounds)
    for name, bound in bounds.items():
        assert Version(lowest[name]) == Version(bound), name
