"""The service and the container of a box, as far as they can be looked at without a service manager and a registry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from anomalib_nagl.commands import edge, edge_watch

UNIT = ROOT / "examples/deploy/anomalib-nagl-watch.service"
CONTAINER = ROOT / "examples/deploy/Containerfile"


def joined(path: Path) -> list[str]:
    """Lines without comments, continued ones in one piece."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    return text.replace("\\\n", " ").splitlines()


def parsed(arguments: list[str]) -> object:
    return edge._parser().parse_args(arguments)


def test_the_service_calls_a_command_that_there_is() -> None:
    (start,) = (line.removeprefix("ExecStart=") for line in joined(UNIT) if line.startswith("ExecStart="))
    program, command, *arguments = start.split()
    assert Path(program).name == "anomalib-nagl"
    assert command == "edge"
    options = parsed(arguments)
    assert options.run is edge_watch.run
    (before,) = (line.split()[1:] for line in joined(UNIT) if line.startswith("ExecStartPre="))
    assert before[1:] == [str(options.model.with_suffix(".bank")), str(options.bank)]
    state = next(line.partition("=")[2] for line in joined(UNIT) if line.startswith("StateDirectory="))
    for written in (options.bank, options.out):
        assert written.is_relative_to(Path("/var/lib") / state)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_service_is_one_for_systemd(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/anomalib-nagl/bin/anomalib-nagl", sys.executable)
    (copy := tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    copy.write_text(text.replace("Restart=on-failure", "Restart=when-it-likes"))
    assert subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False).stderr


def test_the_container_copies_what_is_there_and_runs_as_nobody() -> None:
    lines = joined(CONTAINER)
    sources = [line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert sources == ["anomalib_nagl", "edge"]
    assert all((ROOT / source).is_dir() for source in sources)
    forced = re.findall(r'^"\.\./([^"]+)" =', (ROOT / "edge/pyproject.toml").read_text(), flags=re.MULTILINE)
    assert {Path(one).parts[0] for one in forced} == {"anomalib_nagl"}  # all that is built from is copied
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001:10001"]
    assert lines.index(f"USER {users[0]}") > max(i for i, line in enumerate(lines) if line.startswith("RUN"))
    assert [line.split()[1] for line in lines if line.startswith("VOLUME")] == ["/bank"]
    entry, command = (
        json.loads(next(line for line in lines if line.startswith(name)).partition(" ")[2])
        for name in ("ENTRYPOINT", "CMD")
    )
    assert entry == ["anomalib-nagl", "edge"]
    options = parsed(command)
    assert options.run is edge_watch.run
    assert all(path.is_relative_to("/bank") for path in (options.bank, options.out))
    health = next(line for line in lines if line.startswith("HEALTHCHECK"))
    assert str(options.out / "heartbeat.json") in health
    compile(json.loads(health[health.index("[") :])[2], "HEALTHCHECK", "exec")
