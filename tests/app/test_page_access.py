"""Whoever has no mouse, or does not see the page, uses it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.browser import Tab, axe

pytestmark = pytest.mark.slow
VIEWS = ("inspect", "references", "thresholds", "acceptance", "drift", "history", "export")


def tab_to(page: Any, place: str) -> None:
    """Press the Tab key until the focus is on an element."""
    for _ in range(90):
        if page.evaluate("(place) => document.activeElement?.matches(place) ?? false", place):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not lead to {place}")


def test_the_keyboard_alone_teaches_and_saves(tab: Tab) -> None:
    page, before = tab.page, tab.scored()
    lowest = min((name for name in before if name.startswith("scratch")), key=lambda name: before[name])
    tab_to(page, "#search")
    page.keyboard.type("scratch")
    page.locator(".card[aria-setsize='4']").first.wait_for()
    tab_to(page, "#scroller")
    page.keyboard.press("End")
    tab.shown(lowest)
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    tab.said("Marked a region")
    tab_to(page, "#lesson-type")
    page.keyboard.type("scratch")
    tab_to(page, "#teach")
    page.keyboard.press("Enter")
    tab.said("Taught")
    tab.verdict("Defective")
    tab_to(page, "#save")
    page.keyboard.press("Enter")
    tab.said("1 change saved")
    assert tab.scored()[lowest] > before[lowest]


def test_a_stroke_is_drawn_with_the_keyboard(tab: Tab) -> None:
    tab.open("scratch-004")
    tab.page.locator("#stage").focus()
    tab.page.keyboard.press("b")
    tab.page.keyboard.down("Space")
    for _ in range(5):
        tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.up("Space")
    tab.page.locator("#teach:enabled").wait_for()


def test_the_line_is_moved_with_the_keyboard(tab: Tab) -> None:
    tab.scored()
    tab.view("thresholds")
    tab.page.locator(".handle").first.wait_for()
    tab_to(tab.page, ".handle")
    for _ in range(3):
        tab.page.keyboard.press("PageUp")
    tab.page.locator("#draft-title", has_text="threshold of images").wait_for()
    assert tab.ask("/api/state")["thresholds"]["image"] == pytest.approx(0.65, abs=1e-6)


@pytest.mark.parametrize("width", [1280, 1024])
def test_axe_finds_no_serious_fault(new_tab: Callable[..., Tab], width: int) -> None:
    source = axe()
    # The page's policy refuses scripts of others, and this one is.
    tab = new_tab(bypass_csp=True, viewport={"width": width, "height": 768})
    tab.scored()
    tab.open("missing-003")
    tab.page.locator("#stage").press("a")
    tab.page.locator("#teach:enabled").click()
    tab.said("Taught")
    tab.page.evaluate(source)
    found = {}
    for view in VIEWS:
        tab.view(view)
        tab.page.wait_for_timeout(600)
        answer = tab.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
        for one in answer["violations"]:
            if one["impact"] in ("serious", "critical"):
                found[f"{view}: {one['id']}"] = [node["target"] for node in one["nodes"]][:5]
        wide = tab.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{view} is {wide} pixels too wide"
    assert not found
