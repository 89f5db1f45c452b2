"""A lesson from beginning to end; `make screenshots` keeps pictures of it for README and manual."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import Tab, along

pytestmark = pytest.mark.slow
MARKS = {
    "good": ("good-003", "good-005", "good-008", "good-011"),
    "defective": ("missing-003", "scratch-001", "scratch-002", "scratch-004"),
}


def test_a_missed_scratch_is_taught_and_saved(tab: Tab, plug: Path) -> None:
    before = tab.scored()
    for mark, names in MARKS.items():
        for name in names:
            tab.open(name)
            tab.page.locator(f"#mark-{mark}").check()
            tab.card(name).locator(".flag").wait_for()
    tab.step("save")
    tab.said("8 changes saved")
    tab.open("scratch-004")
    tab.verdict("Good")
    tab.tool("brush")
    tab.page.locator("#size").fill("9")
    tab.draw(along(plug / "plug/ground_truth/scratch/004_mask.png", 20))
    tab.page.locator("#lesson-type").fill("scratch")
    tab.picture("app-teach")
    tab.page.locator("#teach:enabled").click()
    tab.said("Taught")
    tab.verdict("Defective")
    tab.page.locator("#draft-changes", has_text="1 missed found").wait_for()
    after = tab.scored()
    assert after["scratch-004.png"] > 0.5 > before["scratch-004.png"]
    tab.page.locator("#scroller").evaluate("(one) => one.scrollTo(0, 0)")
    tab.picture("app")
    tab.view("references")
    tab.page.locator("#view-references .badge.pending").wait_for()
    tab.page.locator("#reference-filter").select_option("abnormal")
    tab.page.locator("#view-references .reference-mask").nth(1).wait_for()
    tab.picture("app-references")
    tab.view("thresholds")
    tab.page.locator("#view-thresholds .bin.defective").first.wait_for()
    tab.picture("app-thresholds")
    tab.view("acceptance")
    tab.page.locator("#view-acceptance .outcome .better", has_text="scratch-004").wait_for()
    tab.picture("app-acceptance")
    tab.step("save")
    tab.said("1 change saved")
    tab.view("history")
    tab.page.locator("#view-history tbody tr", has_text="scratch-004").first.wait_for()
    tab.picture("app-history")
