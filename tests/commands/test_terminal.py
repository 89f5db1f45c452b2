"""What a person sees: one sentence for an error, each line once, what was written, and what to type next."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import nagl
from support.parts import SIDE, part, write

import anomalib_nagl
from anomalib_nagl.encoders import parse_image_size
from anomalib_nagl.io.error_sentences import sentence_of
from anomalib_nagl.io.shipped_configs import find_config, with_shipped
from anomalib_nagl.references.folders import scan

GABOR = ("--model.backbone", "gabor", "--model.image_size", SIDE, "--model.visualizer", "false")
RUN = Path("results/Nagl/my_part")


@pytest.fixture
def terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to run our program in, whose changes to logging end with the test."""
    monkeypatch.setattr(sys, "argv", ["anomalib-nagl"])
    loggers = [logging.getLogger(name) for name in ("", "anomalib", "anomalib_nagl", *logging.root.manager.loggerDict)]
    before = [(logger, [*logger.handlers], logger.level, logger.propagate) for logger in loggers]
    with warnings.catch_warnings():
        yield folder
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    monkeypatch.undo()


def own_part(root: Path = Path("my_part")) -> Path:
    for number in range(5):
        write(root / f"good/{number}.png", part(number)[0])
    for number in range(2):
        image, mask = part(number + 50, defect=True)
        write(root / f"defects/{number}.png", image)
        write(root / f"masks/{number}.png", mask)
    return root


def caught(call: object, *arguments: object) -> BaseException:
    with pytest.raises(Exception) as told:  # noqa: PT011  # of any kind
        call(*arguments)  # type: ignore[operator]
    return told.value


def wrapped(error: BaseException) -> BaseException:
    try:
        raise RuntimeError("something around it") from error
    except RuntimeError as outer:
        return outer


def test_errors_of_ours_are_found_below_what_is_wrapped_around_them() -> None:
    ours = caught(parse_image_size, "no")
    assert sentence_of(ours) == sentence_of(wrapped(ours)) == str(ours)
    assert "found no folder nowhere" in str(sentence_of(caught(scan, "nowhere")))
    for foreign in (caught(int, "no"), caught(open, "nowhere"), wrapped(caught(int, "no")), KeyError("found x")):
        assert sentence_of(foreign) is None
    # A mistake in our code is no message to people, though Python words it as an error of the same kind.
    assert sentence_of(caught(parse_image_size, Broken())) is None


class Broken:
    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("found a mistake")


def test_an_error_of_a_process_that_reads_is_told_too() -> None:
    place = Path(anomalib_nagl.__file__).parent / "references/images.py"
    words = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    words += f'  File "{place}"'
    assert (
        sentence_of(ValueError(f"{words}, line 3\nValueError: found a, expected b: do c"))
        == "found a, expected b: do c"
    )
    assert sentence_of(ValueError(words.replace(str(place), "x.py") + "\nValueError: a")) is None


def test_configurations_are_found_by_name(folder: Path) -> None:
    assert (
        find_config("own_parts")
        == find_config("own_parts.yaml")
        == Path(anomalib_nagl.__file__).parents[1] / ("configs/own_parts.yaml")
    )
    assert find_config("quickstart", "evaluate") != find_config("quickstart")
    assert find_config("../pyproject") is None
    Path("references").mkdir()
    given = [
        "train",
        "--config",
        "own_parts",
        "--config=quickstart",
        "--config",
        "references",
        "-c",
        "none",
        "own_parts",
    ]
    shipped = [str(find_config(name)) for name in ("own_parts", "quickstart")]
    assert with_shipped(given) == [*given[:2], shipped[0], f"--config={shipped[1]}", *given[4:]]


def test_help_and_version_need_nothing_heavy() -> None:
    program = (
        "import sys; from anomalib_nagl import cli; codes = [cli.run(['--help']), cli.run(['--version'])];"
        "print(codes, sorted({'torch', 'anomalib', 'lightning', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *_, version, told = done.stdout.splitlines()
    assert version == f"anomalib-nagl {anomalib_nagl.__version__}"
    assert told == "[0, 0] []"


@pytest.mark.parametrize("name", ["evaluate", "references check"])
def test_every_option_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nagl(*name.split(), "--help")
    out = capsys.readouterr().out
    assert "``" not in out
    options = out[out.index("options:") :].split("\n  -")[1:]
    assert len(options) > 5
    for option in options:
        words = " ".join(option.replace("\n", " ").split())
        described = words.partition("  ")[0] if "  " in option else words
        assert len([word for word in described.split() if word.isalpha() and word.islower()]) >= 2, option


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "--config", "own_parts", *GABOR), "found no folder my_part"),
        (("train", "--config", "own_parts", *GABOR, "--model.head", "no.ckpt"), "found no file at no.ckpt"),
        (("predict", "--config", "references", *GABOR), "found no folder references"),
        (("export", "--model", "Nagl", "--export_type", "onnx", "--ckpt_path", "no.ckpt"), "found no file at"),
        (("predict", "--model", "Nagl", *GABOR, "--data", "nowhere"), "nowhere"),
    ],
)
def test_an_error_is_one_sentence(
    command: tuple[object, ...], words: str, terminal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nagl(*command) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith(f"anomalib-nagl {command[0]}: ")
    assert words in err[-1]
    assert "Traceback" not in "".join(err)


def test_with_verbose_the_traceback_is_there(terminal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nagl("train", "--verbose", "--config", "own_parts", *GABOR) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "found no folder my_part" in told.splitlines()[-1]


@pytest.mark.slow
def test_anomalibs_own_program_tells_it_too(folder: Path) -> None:
    program = "import sys; sys.argv = ['anomalib', *sys.argv[1:]]; from anomalib.cli.cli import main; main()"
    config = str(find_config("own_parts"))
    command = [sys.executable, "-c", program, "train", "--config", config, "--model.backbone", "gabor"]
    told, whole = (
        subprocess.run(
            command, env={**os.environ, "ANOMALIB_NAGL_TRACEBACK": switch}, capture_output=True, text=True, check=False
        )
        for switch in ("0", "1")
    )
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1].startswith("anomalib: found no folder my_part")
    assert "Traceback" not in told.stderr
    assert whole.returncode == 1
    assert "Traceback" in whole.stderr


@pytest.mark.slow
def test_a_part_from_its_pictures_to_an_export(terminal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_part()
    assert nagl("train", "--config", "own_parts", *GABOR, "--data.num_workers", 0) == 0
    said = capsys.readouterr()
    saved = RUN / "v0/weights/lightning/model.ckpt"
    assert f"Checkpoint: {saved}\n" in said.out
    assert f"anomalib-nagl predict --model Nagl --ckpt_path {saved} --data FOLDER" in said.out
    assert f"anomalib-nagl export --model Nagl --ckpt_path {saved} --export_type openvino" in said.out
    assert (RUN / "latest").resolve() == (RUN / "v0").resolve()
    lines = said.err.splitlines()
    assert len(lines) == len(set(lines))
    for words in ("1000 epochs", "no optimizer", "FutureWarning", "will not be loaded", "GPU available"):
        assert words not in said.err + said.out
    assert "compared without a head" in said.err
    # A run that fails leaves `latest` where it was: at the last one that went well.
    (Path("my_part/good/0.png")).write_bytes(Path("my_part/good/1.png").read_bytes()[:200])
    assert nagl("train", "--config", "own_parts", *GABOR, "--data.num_workers", 0) == 2
    assert (RUN / "latest").resolve() == (RUN / "v0").resolve()
    write(Path("my_part/good/0.png"), part(0)[0])
    assert nagl("train", "--config", "own_parts", *GABOR, "--data.num_workers", 0) == 0
    assert (RUN / "latest").resolve().name != "v0"
    assert (RUN / "latest" / "weights/lightning/model.ckpt").is_file()
    capsys.readouterr()
    assert nagl("export", "--model", "Nagl", "--ckpt_path", RUN / "latest/weights/lightning/model.ckpt",
                "--export_type", "openvino") == 0  # fmt: skip
    said = capsys.readouterr()
    written = (RUN / "latest").resolve().relative_to(Path.cwd()) / "weights/openvino/model.xml"
    assert written.is_file()
    assert f"Written: {written}\n" in said.out
    assert f"anomalib-nagl edge predict {written} FOLDER --out RESULTS" in said.out
    assert len(said.out.splitlines()) + len(said.err.splitlines()) < 15
