"""README and manual: every block is run or says why not, every command exists, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pytest_examples import CodeExample, EvalExample, find_examples
from support.commands import anomalib
from support.documents import DOCUMENTS, GABOR, LANGUAGES, PROGRAMS, ROOT, SHORT, Block, blocks, call, run
from support.reference_folders import copy_references

import anomalib_nagl

TRAINED = "results/Nagl/my_part/latest/weights/lightning/model.ckpt"


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def workspace(drawn: Path, exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that README and manual name: data sets, a part, references, a head, a checkpoint, a box."""
    folder = tmp_path_factory.mktemp("documents")
    before = Path.cwd()
    os.chdir(folder)
    Path("configs").symlink_to(ROOT / "configs", target_is_directory=True)
    Path("datasets/MVTecAD").mkdir(parents=True)
    Path("datasets/drawn").symlink_to(drawn, target_is_directory=True)
    Path("datasets/MVTecAD/bottle").symlink_to(drawn / "plug", target_is_directory=True)
    for category, stand_in in (("candle", "cloth"), ("capsules", "wood")):
        Path("datasets/visa", category).mkdir(parents=True)  # where VisA is unpacked
        shutil.copytree(drawn / stand_in, Path("datasets/visa/visa_pytorch", category))  # links are refused
    copy_references(drawn, folder)
    Path("new").rename("new_pictures")
    make_part(drawn / "plug")
    anomalib("train", "--config", "configs/quickstart.yaml", *GABOR, *SHORT)
    shutil.copy("results/Nagl/DrawnPictures/plate/latest/weights/lightning/model.ckpt", "head.ckpt")
    anomalib(
        "train", "--config", "configs/own_parts.yaml", "--model.head", "head.ckpt", *GABOR, "--data.num_workers", 0
    )
    shutil.copy(TRAINED, "model.ckpt")
    shutil.copytree(exported_once.parent, "box")
    for file in exported_once.parent.iterdir():
        shutil.copy(file, folder)
    yield folder
    os.chdir(before)


def make_part(category: Path) -> None:
    """A part as the README describes it, and an image of it that was missed."""
    shutil.copytree(category / "train/good", "my_part/good")
    shutil.copytree(category / "test/spot", "my_part/defects")
    Path("my_part/masks").mkdir()
    for mask in (category / "ground_truth/spot").iterdir():
        shutil.copy(mask, Path("my_part/masks") / mask.name.replace("_mask", ""))
    image = Image.open(category / "test/scratch/000.png").convert("RGB")
    image.save("part.png")
    image.save("part.jpg")
    shutil.copy(category / "ground_truth/scratch/000_mask.png", "part_mask.png")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_blocks_are_run(document: Path, workspace: Path, eval_example: EvalExample) -> None:
    examples = {example.start_line: example for example in find_examples(document)}
    eval_example.set_config(line_length=120)
    for block in blocks(document):
        if block.reason is not None or block.language == "text":
            continue
        print(f"{block}:")
        if block.language == "python":
            run_python(examples[block.line], eval_example)
        else:
            for words in block.commands():
                print("$", *words)
                run(words)


def run_python(example: CodeExample, eval_example: EvalExample) -> None:
    """Run an example; what it says it prints has to be what it prints."""
    check = eval_example.run_print_check if "#>" in example.source else eval_example.run
    main = sys.modules["__main__"]
    try:
        check(example)
    except Exception as error:
        # Its traceback, made of lines of the document, is one that pytest cannot print.
        raise AssertionError(f"{example}: {type(error).__name__}: {error}") from None
    finally:
        sys.modules["__main__"] = main


@pytest.mark.parametrize("block", [block for document in DOCUMENTS for block in blocks(document)], ids=str)
def test_no_block_hides_from_the_test_above(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: name the language, one of {LANGUAGES}"
    lines = block.text.splitlines()
    commands = [line for line in lines if line.lstrip("$ ").startswith(tuple(f"{program} " for program in PROGRAMS))]
    if block.language == "text":
        assert not commands, f"{block}: commands belong into a block of sh"
    elif block.language == "sh":
        unknown = {words[0] for words in block.commands()} - set(PROGRAMS)
        assert not unknown or block.reason, f"{block}: {unknown} is not run, so say why: <!-- not run: ... -->"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_to_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)}
    missing = [link for link in links if link and "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.])(?:anomalib_nagl|autoload|configs|examples|tests)/[\w/.-]*\w", text)
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_in_sentences_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for command in re.findall(r"`((?:anomalib(?:-nagl)?|make) [a-z][^`]*)`", text):
        program, first, *rest = command.split()
        if program == "make":
            run([program, first])
        elif program == "anomalib-nagl" and first in ("app", "edge", "evaluate", "inspect", "references"):
            commands = [word for word in rest[:1] if re.fullmatch("[a-z][a-z-]+", word)]
            assert call("anomalib-nagl", first, *commands, "--help")[0] == 0, command
        else:
            assert first in ("train", "test", "predict", "export", "benchmark", "evaluate", "references"), command


def test_the_readme_fits_on_a_screen_or_three() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert set(re.findall(r":: anomalib_nagl\.(\w+)", page)) == set(anomalib_nagl.__all__)


def test_the_algorithm_page_has_what_the_source_cites() -> None:
    page = (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "anomalib_nagl").rglob("*.py"))
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)", page, flags=re.MULTILINE))
    cited = set(re.findall(r"(?:sections?|specification) (\d+(?:\.\d+)?)", source))
    assert cited
    assert cited <= sections
    assert set(re.findall(r"\bQ\d+\b", source)) <= set(re.findall(r"\bQ\d+\b", page))
