"""Nothing asks for a network unasked: whole programs run where each attempt is written down and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.world import build
from support.environments import ROOT
from support.once import once

# Put first on the path of every program and of those that it starts. Audit events come from C code too, whatever has
# been imported how. A socket of the system's own (AF_UNIX) leads nowhere: processes of one program use such.
GUARD = """
import os, sys, traceback

ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto",
          "socket.sendmsg", "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect")

def refuse(event, arguments):
    if event not in ASKING or event in ASKING[:1] + ASKING[4:6] and not isinstance(arguments[1], tuple):
        return
    with open(os.environ["NETWORK_RECORD"], "a") as file:
        file.write(f"{event} {arguments[1:]!r}\\n{''.join(traceback.format_stack()[-6:])}\\n")
    raise OSError(101, "Network is unreachable")

sys.addaudithook(refuse)
"""
# Variables that keep dependencies quiet, or that tell them of unattended runs: none of them may be needed.
QUIETING = (
    "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI",
    "NNCF_DEV", "PYTEST_CURRENT_TEST",
)  # fmt: skip
ASKS = {
    "a connection": "import socket; socket.create_connection(('192.0.2.1', 9), 1)",
    "a name": "import socket; socket.getaddrinfo('example.org', 443)",
    "a page": "import urllib.request as r; r.urlopen('http://192.0.2.1/', timeout=1)",
    "a child": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import socket; "
    "socket.socket().connect_ex((chr(49) * 3, 9))'])",
}
TORCH = """
import sys
from pathlib import Path
import anomalib_nagl
from anomalib_nagl import Nagl, ReferenceSet, cli
checkpoint, references, image = sys.argv[1:]
gabor = ("--model.backbone", "gabor", "--model.image_size", "64", "--model.visualizer", "false")
assert cli.run(["predict", "--model", "Nagl", *gabor, "--ckpt_path", checkpoint, "--data", image]) == 0
assert 0 <= Nagl.load_from_checkpoint(checkpoint).predict(image).score <= 1
model = Nagl(backbone="gabor", image_size=64)
model.set_references(ReferenceSet.from_folder(references))
assert 0 <= model.predict(image).score <= 1
"""
EXPORT = """
import sys
from anomalib.deploy import CompressionType
from anomalib_nagl import Nagl, NaglEdge
model = Nagl.load_from_checkpoint(sys.argv[1])
for kind in (None, CompressionType.INT8):
    path = model.to_openvino("exported", compression_type=kind)
    assert 0 <= NaglEdge(path).predict(sys.argv[2]).score <= 1
"""


@pytest.fixture(scope="module")
def made(run_folder: Path) -> Path:
    """A small export, a checkpoint, references."""
    return once(run_folder / "faults", build)


def attempts(folder: Path, *command: object, ends: bool = True) -> str:
    """Run a program with a home of its own; what it asked of a network."""
    (folder / "guard").mkdir()
    (folder / "guard/sitecustomize.py").write_text(GUARD)
    record = folder / "record"
    variables = {
        **{name: value for name, value in os.environ.items() if name not in QUIETING},
        "HOME": str(folder), "PYTHONPATH": f"{folder / 'guard'}{os.pathsep}{ROOT}", "NETWORK_RECORD": str(record),
    }  # fmt: skip
    words = [sys.executable, "-W", "ignore", *map(str, command)]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)
    assert not ends or done.returncode == 0, done.stdout + done.stderr
    return record.read_text() if record.exists() else ""


def assert_none(asked: str) -> None:
    if asked:  # no comparison: the record is long
        pytest.fail(asked[:2000])


@pytest.mark.parametrize("what", ASKS)
def test_the_guard_sees_what_asks(what: str, tmp_path: Path) -> None:
    assert attempts(tmp_path, "-c", ASKS[what], ends=False)


def test_commands_of_a_box(made: Path, tmp_path: Path) -> None:
    model, parts = made / "export/model.xml", made / "references"
    for i, arguments in enumerate((
        ("list", model),
        ("predict", model, parts / "normal", "--out", "out"),
        ("add-defect", model, parts / "abnormal/dent/0.png", "--mask", parts / "masks/dent/0.png", "--name", "new",
         "--bank", tmp_path / "taught.bank"),
    )):  # fmt: skip
        (folder := tmp_path / str(i)).mkdir()
        if "--bank" in arguments:
            (tmp_path / "taught.bank").write_bytes(model.with_suffix(".bank").read_bytes())
        assert_none(attempts(folder, "-m", "anomalib_nagl.cli", "edge", *arguments))


@pytest.mark.slow
def test_import_and_registration(tmp_path: Path) -> None:
    code = (
        "import anomalib_nagl; anomalib_nagl.register(); from anomalib.cli.cli import AnomalibCLI; anomalib_nagl.Nagl"
    )
    assert_none(attempts(tmp_path, "-c", code))


@pytest.mark.slow
def test_prediction_with_torch(made: Path, tmp_path: Path) -> None:
    """With a checkpoint by the command and by itself, and with the bank of filters."""
    image = made / "references/normal/0.png"
    assert_none(attempts(tmp_path, "-c", TORCH, made / "model.ckpt", made / "references", image))


@pytest.mark.slow
def test_export_reports_to_nobody(made: Path, tmp_path: Path) -> None:
    """OpenVINO, its converter and NNCF would report to their makers, and leave a number of the user in the home."""
    assert_none(attempts(tmp_path, "-c", EXPORT, made / "model.ckpt", made / "references/normal/0.png"))
    assert not [path for path in tmp_path.rglob("*") if "openvino_ga_cid" in path.name or "telemetry" in path.name]


@pytest.mark.slow
def test_export_of_a_program_that_knows_openvino(made: Path, tmp_path: Path) -> None:
    """Its own import reports, before this package could say anything; the conversions do not."""
    code = f"import openvino{EXPORT}"
    asked = attempts(tmp_path, "-c", code, made / "model.ckpt", made / "references/normal/0.png")
    reports = [line for line in asked.splitlines() if line.startswith("urllib.Request")]
    assert [line for line in reports if "general_import" not in line] == []
