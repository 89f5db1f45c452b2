"""The page in other words: another file of words is another language, steps and history included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.browser import Tab

import anomalib_nagl

pytestmark = pytest.mark.slow
WORDS = Path(anomalib_nagl.__file__).parent / "edge/app/static/words.en.json"
OTHER = {"step.teach": "{name} gelernt als {type}", "history.did.add.abnormal": "Fehler {name} gelernt"}


def test_steps_and_history_are_said_in_the_words_of_the_page(tab: Tab) -> None:
    words = {**json.loads(WORDS.read_text(encoding="utf-8")), **OTHER}
    tab.page.route("**/static/words.en.json", lambda route: route.fulfill(json=words))
    tab.page.reload()
    tab.open("scratch-004")
    tab.page.locator("#stage").press("a")
    tab.page.locator("#lesson-type").fill("scratch")
    tab.page.locator("#teach:enabled").click()
    tab.said("Taught")
    tab.page.locator("#draft-title", has_text="scratch-004 gelernt als scratch").wait_for()
    tab.step("save")
    tab.said("1 change saved")
    tab.view("history")
    tab.page.locator("#view-history td", has_text="Fehler scratch-004 gelernt").wait_for()
    # What there are no words for is shown as the server says it.
    del words["history.did.add.abnormal"]
    tab.page.reload()
    tab.view("history")
    tab.page.locator("#view-history td", has_text="abnormal scratch-004").wait_for()
