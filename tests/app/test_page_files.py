"""The files of the page: small, without anything from elsewhere, and with all their words in one place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import anomalib_nagl

STATIC = Path(anomalib_nagl.__file__).parent / "edge/app/static"
FILES = sorted(STATIC.iterdir())
SCRIPTS = "".join(path.read_text(encoding="utf-8") for path in FILES if path.suffix in (".js", ".html"))
WORDS = json.loads((STATIC / "words.en.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_small_and_names_no_other_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert set(re.findall(r"https?://[\w./]+|\"//[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_nothing_stands_in_the_markup_that_the_policy_refuses() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", page)


def test_every_word_is_there_and_is_used() -> None:
    known = {re.sub(r"\.(one|other)$", "", key) for key in WORDS} | set(WORDS)
    asked = set(re.findall(r"(?<![\w.])t\(\s*\"([\w.-]+)\"", SCRIPTS))
    asked |= set(re.findall(r"data-t(?:-label|-title|-placeholder)?=\"([\w.-]+)\"", SCRIPTS))
    assert asked
    assert asked <= known
    kinds = {f"{kind}." for kind in re.findall(r"(?<![\w.])done\(\"([\w.]+)\"", SCRIPTS)}
    assert kinds
    kinds |= set(re.findall(r"`([a-z]+\.(?:[a-z]+\.)*)\$\{", SCRIPTS)) | {"gallery.filter.", "gallery.sort."}
    assert not {
        key for key in WORDS if re.sub(r"\.(one|other)$", "", key) not in asked and not key.startswith(tuple(kinds))
    }


def test_every_icon_is_drawn() -> None:
    drawn = set(re.findall(r"symbol id=\"(\w+)\"", (STATIC / "icons.svg").read_text(encoding="utf-8")))
    asked = set(re.findall(r"data-icon=\"(\w+)\"|icon\(\"(\w+)\"\)", SCRIPTS))
    assert {one or other for one, other in asked} <= drawn
