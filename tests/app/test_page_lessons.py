"""What a person teaches on the page, in a real browser: it is found, it stays, and it can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.browser import Tab, along

pytestmark = pytest.mark.slow
MISSED, ALIKE, ALARM = "scratch-004", "scratch-007", "good-011"


def teach_a_scratch(tab: Tab, plug: Path) -> None:
    """Draw on the scratch that is missed, and teach it."""
    tab.open(MISSED)
    tab.tool("brush")
    tab.draw(along(plug / "plug/ground_truth/scratch/004_mask.png"))
    tab.page.locator("#lesson-type").fill("scratch")
    tab.page.locator("#teach:enabled").click()
    tab.said("Taught")


def say_that_an_alarm_is_fine(tab: Tab) -> None:
    """Take the suggestion on the false alarm, and say that it is fine."""
    tab.open(ALARM)
    tab.page.locator("#stage").press("a")
    tab.page.locator("#fine:enabled").click()
    tab.said("Noted as fine")


def test_a_stroke_on_a_defect_finds_it_and_others_like_it(tab: Tab, plug: Path) -> None:
    before = tab.scored()
    tab.open(MISSED)
    tab.verdict("Good")
    teach_a_scratch(tab, plug)
    tab.verdict("Defective")
    assert tab.score() > 0.5 > before[f"{MISSED}.png"]
    after = tab.scored()
    assert after[f"{ALIKE}.png"] > before[f"{ALIKE}.png"]
    tab.card(MISSED).locator(".was", has_text=f"{before[f'{MISSED}.png']:.3f}").wait_for()
    tab.page.locator("#draft-changes", has_text="1 unmarked now defective").wait_for()
    assert "scratch" in tab.page.locator("#found .like b").inner_text()


def test_what_is_fine_is_no_alarm_any_more(tab: Tab) -> None:
    before = tab.scored()
    tab.open(ALARM)
    tab.verdict("Defective")
    say_that_an_alarm_is_fine(tab)
    after = tab.scored()
    assert after[f"{ALARM}.png"] < before[f"{ALARM}.png"] - 0.05
    tab.shows(after[f"{ALARM}.png"])


def test_undo_brings_every_score_back_and_redo_what_was_taught(tab: Tab, plug: Path) -> None:
    before = tab.scored()
    teach_a_scratch(tab, plug)
    say_that_an_alarm_is_fine(tab)
    taught = tab.scored()
    assert taught != before
    for _ in range(2):
        tab.step("undo")
        tab.said("Taken back")
    tab.page.locator("#draft-title", has_text="Nothing to save").wait_for()
    assert tab.scored() == pytest.approx(before, abs=1e-6)
    tab.page.locator("#facts .verdict .big", has_text=f"{before[f'{ALARM}.png']:.3f}").wait_for()
    for _ in range(2):
        tab.step("redo")
        tab.said("Done again")
    tab.page.locator("#draft-title", has_text="2 changes not saved").wait_for()
    assert tab.scored() == pytest.approx(taught, abs=1e-6)


def test_a_reload_keeps_draft_strokes_and_what_was_saved(tab: Tab, plug: Path) -> None:
    teach_a_scratch(tab, plug)
    taught = tab.scored()
    tab.tool("brush")
    tab.draw([(60, 60), (90, 90)])
    marked = tab.page.locator("#lesson-words").inner_text()
    tab.page.reload()
    tab.shown(MISSED)
    tab.page.locator("#draft-title", has_text="1 change not saved").wait_for()
    tab.page.locator("#lesson-words", has_text=marked).wait_for()
    assert tab.scored() == pytest.approx(taught, abs=1e-6)
    tab.step("save")
    tab.said("1 change saved")
    tab.page.reload()
    tab.page.locator("#draft-title", has_text="Nothing to save").wait_for()
    assert tab.scored() == pytest.approx(taught, abs=1e-6)
    tab.view("history")
    tab.page.locator("#view-history tbody tr").first.locator("td", has_text=MISSED).wait_for()


def test_discard_leaves_nothing(tab: Tab, plug: Path, model: Path) -> None:
    before, bank = tab.scored(), model.with_suffix(".bank").read_bytes()
    teach_a_scratch(tab, plug)
    tab.step("discard")
    tab.said("discarded")
    assert tab.scored() == pytest.approx(before, abs=1e-6)
    assert model.with_suffix(".bank").read_bytes() == bank


def test_two_persons_at_once_lose_nothing_and_see_each_other(new_tab: Callable[..., Tab], plug: Path) -> None:
    ann, bob = new_tab(), new_tab()
    say_that_an_alarm_is_fine(bob)  # a draft while Ann saves
    teach_a_scratch(ann, plug)
    ann.step("save")
    ann.said("1 change saved")
    bob.view("references")
    bob.page.locator("#view-references input[id$='-name']").nth(10).wait_for()  # nine as exported, Ann's, his own
    assert bob.scored()[f"{MISSED}.png"] == pytest.approx(ann.scored()[f"{MISSED}.png"], abs=0.2)
    bob.step("save")
    bob.said("1 change saved")
    ann.view("history")
    ann.page.locator("#view-history td", has_text=ALARM).first.wait_for()
    ann.page.locator("#view-history td", has_text=MISSED).first.wait_for()
    assert ann.scored() == pytest.approx(bob.scored(), abs=1e-6)
    assert {one["name"] for one in ann.ask("/api/references")} > {MISSED, ALARM}


def test_a_saved_change_is_taken_back_in_the_history(tab: Tab, plug: Path) -> None:
    before = tab.scored()
    teach_a_scratch(tab, plug)
    tab.step("save")
    tab.said("1 change saved")
    tab.view("history")
    tab.page.locator("#view-history tbody tr", has_text=MISSED).first.get_by_role("button").click()
    tab.said("Taken back")
    assert tab.scored() == pytest.approx(before, abs=1e-6)
