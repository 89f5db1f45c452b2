"""Steps and saved changes as keys with values: what banks write is read back, and a page has words for all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.page import SIZE, Person, as_mask, served, write_images

import anomalib_nagl
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.app import wording
from anomalib_nagl.edge.app.wording import STEPS, Words, of_change

PAGE = json.loads((Path(wording.__file__).with_name("static") / "words.en.json").read_text(encoding="utf-8"))
ERRORS = Path(wording.__file__).read_text(encoding="utf-8")
VALUE = re.compile(r"\{(\w+)\}")


def told(kind: str, key: str) -> bool:
    """Whether the page has words of a key."""
    return any(f"{kind}.{key}{number}" in PAGE for number in ("", ".other"))


def test_the_page_has_words_for_all_steps_and_changes() -> None:
    assert all(told("step", key) for key in STEPS)
    keys = {key for one in wording._SUMMARIES.values() for key in one} | {"undo"}
    assert all(told("history.did", key) for key in keys)
    # And the values that they name are those of the server's sentence.
    for key, text in STEPS.items():
        assert set(VALUE.findall(PAGE[f"step.{key}"])) == set(VALUE.findall(text))


def written() -> str:
    """All that the box's part of the package says, sentences that stand on several lines in one piece."""
    root = Path(anomalib_nagl.__file__).parent
    texts = (
        path.read_text(encoding="utf-8") for room in ("io", "bank", "edge") for path in root.glob(f"{room}/**/*.py")
    )
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts).replace(ERRORS, ""))


@pytest.mark.parametrize("key", wording._ERRORS)
def test_an_error_that_has_a_key_is_said_somewhere_in_these_words(key: str) -> None:
    parts = re.split(r"\{\w+\}", wording._ERRORS[key])
    assert re.search(r"\{[^{}]*\}".join(map(re.escape, parts)), written()) is not None
    assert told("error", key)
    assert set(VALUE.findall(PAGE[f"error.{key}"])) <= set(VALUE.findall(wording._ERRORS[key]))


@pytest.mark.slow
def test_errors_have_keys_and_a_sentence(exported: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    (tmp_path / "secret.png").write_bytes((images / "good_0.png").read_bytes())
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    with served(exported, images, tmp_path / "room") as (_, client):
        ann = Person(client, "ann")
        ann.scores()
        assert ann.item("broken.png")["error_words"]["key"] == "no_image"
        assert ann.item("broken.png")["error_words"]["name"] == "broken.png"
        assert ann.item("link.png")["error_words"] == {"key": "link", "name": "link.png"}
        assert ann.item("good_0.png")["error_words"] is None
        good, uids = ann.item("good_0.png")["id"], [one["uid"] for one in ann.get("/api/references")]
        empty = as_mask(np.zeros(SIZE, np.uint8))
        said = ann.draft("teach", 422, image=good, mask=empty)
        assert said["words"] == {"key": "empty_mask"}
        assert said["error"].startswith("found an empty mask, expected")
        name = ann.get("/api/references")[0]["name"]
        assert ann.draft("reference", 422, uid=uids[1], name=name)["words"]["key"] == "name_of_other"
        ann.draft("reference", uid=uids[1], active=False)
        ann.draft("save")
        ann.post("/api/history/2/undo")
        assert ann.post("/api/history/2/undo", 422)["words"] == {"key": "undone", "number": "2"}
        assert client.get("/api/images/none/prediction").json()["words"] == {"key": "gone", "image": "'none'"}
        assert "words" not in ann.draft("mark", 422, image=good, mark="fair")


@pytest.mark.parametrize("name", ["part 3", "a is good", "{name} to {new}", "", "lines\nof a name"])
def test_a_name_may_be_anything(name: str) -> None:
    assert Words.of("teach", name=name, type="spot").text == f"taught {name} (spot)"
    if name:
        assert of_change("add", f"abnormal {name}", {}) == {"key": "add.abnormal", "name": name}
        assert of_change("mark", f"{name} is good", {}) == {"key": "good", "name": name}


def test_what_is_not_known_stays_a_sentence() -> None:
    assert of_change("paint", "the wall", {}) is None
    assert of_change("load", "some references", {}) is None
    assert of_change("undo", "took back 9: nothing", {}) is None
    assert of_change("undo", "took back " + 5000 * "9" + ": much", {}) is None
    done = {2: ("add", "normal one"), 3: ("undo", "took back 2: normal one")}
    assert of_change(*done[3], done)["change"] == {"key": "add.normal", "name": "one"}
    twice = of_change("undo", "took back 3: took back 2: normal one", done)
    assert (twice["change"], twice["summary"]) == (None, "took back 2: normal one")


@pytest.mark.slow
def test_all_that_is_done_has_a_key(exported: Path, tmp_path: Path) -> None:
    with served(exported, write_images(tmp_path / "images"), tmp_path / "room") as (_, client):
        ann = Person(client, "ann")
        ann.scores()
        ann.teach(0)
        uid = ann.get("/api/references")[-1]["uid"]
        for change in ({"active": False}, {"active": True}, {"name": "two"}, {"type": "notch"}, {"remove": True}):
            ann.draft("reference", uid=uid, **change)
        good = ann.item("good_0.png")["id"]
        for mark in ("good", "defective", None):
            ann.draft("mark", image=good, mark=mark)
        ann.draft("thresholds", image=0.6)
        ann.draft("thresholds", image=0.55, pixel=0.6)
        ann.draft("calibrate")
        steps = ann.get("/api/state")["draft"]["steps"]
        assert [one["words"]["key"] for one in steps] == [
            "teach", "off", "on", "rename", "type", "remove", "good", "defective", "unmarked", "thresholds.image",
            "thresholds", "calibrate",
        ]  # fmt: skip
        assert steps[3]["words"] == {"key": "rename", "name": "defect_0", "new": "two"}
        ann.draft("save")
        detector = NaglEdge(exported)
        detector.set_thresholds(image=0.7)
        detector.undo()
        detector.set_region(np.arange(12).reshape(3, 4) < 8)
        detector.save(tmp_path / "copy.bank")
        detector.load(tmp_path / "copy.bank")
        history = ann.get("/api/history")
    assert all(one["words"] is not None for one in history), [one["summary"] for one in history if not one["words"]]
    keys = [one["words"]["key"] for one in reversed(history)]
    assert keys[:4] == ["created", "add.abnormal", "off", "on"]
    assert keys[-4:] == ["thresholds.pair", "undo", "region.part", "load"]
