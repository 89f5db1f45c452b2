"""``anomalib-nagl``: which command runs, what is said where one cannot, and what is not swallowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.commands import nagl
from support.environments import ROOT

import anomalib_nagl
from anomalib_nagl import cli

# A process that looks like a box: neither torch nor anomalib, nor the files of the other commands.
ON_A_BOX = """
import contextlib, io, json, sys

AWAY = {"torch", "torchvision", "timm", "anomalib", "lightning", "pandas", "jsonargparse",
        "anomalib_nagl.commands.evaluate", "anomalib_nagl.commands.references"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in AWAY or name.partition(".")[0] in AWAY:
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Block())
from anomalib_nagl import cli
found = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.run(arguments)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def on_a_box(*commands: Sequence[str]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of commands in a process without torch and anomalib."""
    command = [sys.executable, "-c", ON_A_BOX, json.dumps(commands)]
    path = {"PYTHONPATH": str(ROOT), "ANOMALIB_NAGL_AUTOLOAD": "0"}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that anomalib was given, instead of running them."""
    given: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["anomalib-nagl"])
    monkeypatch.setattr("anomalib.cli.cli.main", lambda: given.append(sys.argv[1:]))
    return given


def test_on_a_box() -> None:
    shown, bare, evaluate, references, train, misspelt, unknown = on_a_box(
        ["--help"], [], ["evaluate", "--help"], ["references", "check", "x"], ["train"], ["egde", "list"], ["dance"]
    )
    assert shown == bare
    assert shown[0] == 0
    assert "predict with an exported model" in shown[1]
    assert "  evaluate  " not in shown[1]
    assert "evaluate, references, train, test, predict" in shown[1]
    assert "need anomalib-nagl, in an environment without anomalib-nagl-edge" in shown[1]
    for name, (code, out, err) in (("evaluate", evaluate), ("references", references), ("train", train)):
        assert (code, out) == (2, "")
        assert f"{name!r} needs anomalib-nagl: pip install anomalib-nagl" in err
        assert err.count("\n") == 1
        assert err.startswith(f"anomalib-nagl {name}: ")
    for (code, _, err), hint in ((misspelt, "; did you mean 'edge'?\n"), (unknown, "benchmark, install)\n")):
        assert code == 2
        assert err.startswith("anomalib-nagl: found no command ")
        assert err.endswith(hint)
        assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_shows_our_commands_and_asks_anomalib_nothing(
    arguments: tuple[str, ...], handed_over: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nagl(*arguments) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}  " in out and command.help in out for name, command in cli.COMMANDS.items())
    assert "need" not in out
    assert "anomalib's commands: train, test, predict" in out
    assert not handed_over


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        nagl(name, "--help")
    assert stop.value.code in (0, None)
    assert f"usage: anomalib-nagl {name}" in capsys.readouterr().out


def test_what_is_not_ours_goes_to_anomalib(handed_over: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["train", "--model", "Nagl"], ["validate"], ["--config", "x.yaml"], ["new-command"]):
        assert nagl(*arguments) == 0
        assert handed_over.pop() == arguments
    assert nagl("evalute", "--config", "x.yaml") == 2
    assert "found no command 'evalute', expected one of app, edge, evaluate, inspect, references" in (
        err := capsys.readouterr().err
    )
    assert err.endswith("; did you mean 'evaluate'?\n")
    assert not handed_over


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Add a command ``try`` whose function has this body."""
    name = f"command_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(f"def main(arguments):\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(cli.COMMANDS, "try", cli.Command("", f"{name}:main", cli.BOX))


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise ValueError('found a, expected b')", 2, "anomalib-nagl try: found a, expected b\n"),
        ("open('/no/such/file')", 2, "anomalib-nagl try: [Errno 2] No such file or directory: '/no/such/file'\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        (
            "{}['a\\nb']",
            70,
            "anomalib-nagl try: an unexpected error, KeyError: 'a\\nb'; --verbose shows where\n",
        ),
    ],
)
def test_exit_status(
    body: str, code: int, err: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(tmp_path, monkeypatch, body)
    monkeypatch.setattr(sys, "argv", ["anomalib-nagl", "try"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == code
    assert capsys.readouterr().err == err


def test_other_import_errors_are_not_swallowed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    handed_over: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only what a distribution lacks is explained: a mistake in a command, or in the plugin, is one of ours.

    What ends a command of anomalib keeps its traceback, those of ours show it when they are asked to.
    """
    command(tmp_path, monkeypatch, "import there_is_no_such_module")
    for asked in ("", "1"):
        monkeypatch.setenv("ANOMALIB_NAGL_TRACEBACK", asked)
        assert nagl("try") == 70
        error = capsys.readouterr().err
        assert "an unexpected error, ModuleNotFoundError: No module named 'there_is_no_such_module'" in error
        assert ("Traceback" in error) == bool(asked)
        assert ("--verbose shows where" in error) != bool(asked)

    def broken() -> None:
        raise ImportError("cannot import name 'Engine'")

    monkeypatch.setattr(anomalib_nagl, "register", broken, raising=False)
    monkeypatch.delenv("ANOMALIB_NAGL_TRACEBACK")
    assert nagl("train") == 70
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("anomalib-nagl train: an unexpected error, ImportError: cannot import name 'Engine'\n")
    assert not handed_over


def test_errors_of_what_anomalib_was_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a command of anomalib an error of ours is a sentence; one of somebody else may be a mistake."""

    def ours() -> None:
        anomalib_nagl.ReferenceSet(normal=(), abnormal=())

    def foreign() -> None:
        raise ValueError("what now?")

    for end, status in ((ours, 2), (foreign, 70)):
        monkeypatch.setattr("anomalib.cli.cli.main", end)
        assert nagl("train") == status
        assert ("Traceback" in capsys.readouterr().err) == (status == 70)
