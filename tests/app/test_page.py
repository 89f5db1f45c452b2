"""What a person sees and sets on the page, in a real browser."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.browser import Tab, served

pytestmark = pytest.mark.slow
DRAWN = re.compile(r"^4[01] . 5[01] pixels")  # 40 by 50 as drawn, and what the edges add
ALARM, MISSED, FOUND = "good-011", "scratch-004", "scratch-002"

DROP = """(bytes) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def drag(tab: Tab, view: str, place: float, chart: int = 0) -> None:
    """Drag the line of a chart to a place of its scale."""
    handle = tab.page.locator(f"#{view} .handle").nth(chart)
    handle.scroll_into_view_if_needed()
    box, ground = handle.bounding_box(), tab.page.locator(f"#{view} .chart svg").nth(chart).bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    edge = ground["width"] / 100  # the scale begins a hundredth inside
    tab.page.mouse.move(ground["x"] + edge + place * (ground["width"] - 2 * edge), box["y"] + 20, steps=6)
    tab.page.mouse.up()


def count(tab: Tab, word: str) -> int:
    """How many images have a verdict, by the line over the gallery."""
    words = tab.page.locator("#progress-words").inner_text().split(" · ")
    return next((int(one.split()[0]) for one in words if one.endswith(word)), 0)


def test_the_gallery_is_sorted_filtered_and_searched(tab: Tab) -> None:
    scores = tab.scored()
    assert count(tab, "defective") == sum(score > 0.55 for score in scores.values())
    highest = max(scores, key=lambda name: scores[name])
    tab.page.locator(".card[aria-posinset='1']", has_text=highest).wait_for()
    tab.page.locator("#sort").select_option("name")
    tab.page.locator(".card[aria-posinset='1']", has_text="broken.png").wait_for()
    tab.page.locator("#filter").select_option("good")
    tab.card("missing-003").wait_for(state="detached")
    tab.page.locator("#filter").select_option("all")
    tab.page.locator("#search").fill("spot")
    tab.page.locator(".card[aria-setsize='2']").first.wait_for()
    tab.page.locator("#search").fill("nothing like this")
    tab.page.locator("#gallery-empty", has_text="No image fits").wait_for()


def test_a_broken_file_is_one_card_and_a_sentence(tab: Tab) -> None:
    scores = tab.scored()
    assert len(scores) == 13
    tab.card("broken.png").locator(".badge", has_text="Unreadable").wait_for()
    tab.card("broken.png").click()
    tab.page.locator("#facts .problem", has_text="cannot be read as an image").wait_for()
    assert tab.page.locator("#teach").is_disabled()
    tab.open(FOUND)
    tab.verdict("Defective")


def test_strokes_are_drawn_erased_and_taken_back(tab: Tab) -> None:
    tab.open(MISSED)
    words = tab.page.locator("#lesson-words")
    tab.tool("lasso")
    tab.draw([(40, 40), (80, 40), (80, 90), (40, 90)])
    words.get_by_text(DRAWN).wait_for()
    tab.tool("eraser")
    tab.page.locator("#stage").press("]")
    for _ in range(4):
        tab.draw([(35, 42), (85, 42)])
        tab.page.locator("#stage").press("]")
    words.get_by_text(DRAWN).wait_for(state="hidden")
    for _ in range(5):
        tab.page.locator("#stage").press("Control+z")
    words.get_by_text("Nothing yet").wait_for()
    tab.page.locator("#stroke-redo").click()
    words.get_by_text(DRAWN).wait_for()
    before = int(tab.page.locator("#size").input_value())
    tab.page.locator("#stage").hover()
    tab.page.mouse.wheel(0, -300)
    tab.page.wait_for_timeout(100)
    assert int(tab.page.locator("#size").input_value()) > before


def test_the_threshold_is_dragged_and_put_back(tab: Tab) -> None:
    scores = tab.scored()
    for name, mark in ((ALARM, "good"), (FOUND, "defective"), (MISSED, "defective")):
        tab.open(name)
        tab.page.locator(f"#mark-{mark}").check()
        tab.card(name).locator(".flag").wait_for()
    tab.view("thresholds")
    alarms, misses = (tab.page.locator("#view-thresholds .outcome .big").nth(place) for place in (0, 1))
    alarms.get_by_text("1").wait_for()
    misses.get_by_text("1").wait_for()
    drag(tab, "view-thresholds", 0.91)
    tab.page.locator("#draft-title", has_text="4 changes").wait_for()
    alarms.get_by_text("0").wait_for()
    line = tab.page.locator("#view-thresholds .handle").first
    assert float(line.get_attribute("aria-valuenow")) == pytest.approx(0.91, abs=0.02)
    tab.view("inspect")
    assert scores[f"{ALARM}.png"] < 0.9
    tab.open(ALARM)
    tab.page.locator("#facts .hint", has_text="Defective above 0.9").wait_for()
    tab.view("thresholds")
    line.press("ArrowLeft")
    tab.page.locator("#draft-title", has_text="5 changes").wait_for()
    tab.page.locator("#back-image").click()
    tab.page.locator("#view-thresholds .handle[aria-valuenow='0.500']").first.wait_for()
    alarms.get_by_text("1").wait_for()
    drag(tab, "view-thresholds", 0.3, chart=1)
    tab.page.locator("#draft-title", has_text="threshold of pixels 0.").wait_for()
    assert tab.ask("/api/state")["thresholds"]["pixel"] == pytest.approx(0.3, abs=0.02)


def test_where_to_look_is_drawn_and_lifted(tab: Tab) -> None:
    before = tab.scored()
    tab.open(FOUND)
    tab.tool("lasso")
    tab.draw([(2, 2), (60, 2), (60, 30), (2, 30)])
    tab.page.locator("#region summary").click()
    tab.page.locator("#region-only:enabled").click()
    tab.said("only that part")
    tab.page.locator("#draft-title", has_text="1 change not saved").wait_for()
    assert tab.scored()[f"{FOUND}.png"] < before[f"{FOUND}.png"] - 0.1
    tab.page.locator("#region-none:enabled").click()
    tab.said("Every part")
    assert tab.scored() == pytest.approx(before, abs=1e-6)


def test_an_image_is_added_and_scored(tab: Tab, plug: Path) -> None:
    tab.scored()
    picture = io.BytesIO()
    Image.open(plug / "plug/test/missing/006.png").save(picture, "PNG")
    files = [
        {"name": "näw part.png", "mimeType": "image/png", "buffer": picture.getvalue()},
        {"name": "text.png", "mimeType": "image/png", "buffer": b"no image"},
    ]
    tab.page.locator("#files").set_input_files(files)
    tab.page.locator("#said.error", has_text="text.png").wait_for()
    tab.open("näw part.png")
    Image.open(plug / "plug/test/missing/007.png").save(picture := io.BytesIO(), "PNG")
    tab.page.evaluate(DROP, list(picture.getvalue()))
    tab.open("dropped.png")
    assert {"näw part.png", "dropped.png"} <= set(tab.scored())


def test_references_are_named_switched_off_and_removed(tab: Tab) -> None:
    before = tab.scored()
    tab.view("references")
    kinds = tab.page.locator("#view-references .said-of .badge", has_text="Defect")
    kinds.wait_for()
    row = tab.page.locator("#view-references li", has=tab.page.locator(".said-of .badge", has_text="Defect"))
    row.locator("input[id$='-name']").fill("the missing pin")
    row.locator("input[id$='-name']").press("Enter")
    tab.page.locator("#draft-title", has_text="the missing pin").wait_for()
    row.get_by_role("switch").uncheck()
    row.get_by_text("Off", exact=True).wait_for()
    assert tab.scored() != pytest.approx(before, abs=1e-3)
    row.get_by_role("switch").check()
    tab.page.locator("#draft-title", has_text="3 changes").wait_for()
    assert tab.scored() == pytest.approx(before, abs=1e-6)
    row.get_by_role("button", name="Remove").click()
    tab.said("removed")
    kinds.wait_for(state="detached")


def test_the_acceptance_set_says_what_became_worse(tab: Tab) -> None:
    tab.scored()
    tab.open(FOUND)
    tab.page.locator("#mark-defective").check()
    tab.card(FOUND).locator(".flag").wait_for()
    tab.view("thresholds")
    drag(tab, "view-thresholds", 0.95)
    tab.page.locator("#draft-worse", has_text="1 marked image became worse").click()
    tab.page.locator("#view-acceptance .outcome .worse", has_text=FOUND).wait_for()
    tab.page.locator("#view-acceptance tbody tr", has_text=FOUND).get_by_text("no").wait_for()


def test_files_are_taken_along(tab: Tab) -> None:
    tab.scored()
    tab.view("export")
    for name in ("bank", "predictions.csv", "report.html"):
        with tab.page.expect_download() as download:
            tab.page.locator(f"a[href*='/api/export/{name}?']").click()
        assert Path(download.value.path()).stat().st_size > 100


def test_hundreds_of_images_are_seen_while_they_are_scored(
    browser: object, model: Path, plug: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        image = Image.open(plug / f"plug/test/good/{number % 16:03}.png").convert("RGB")
        image.putpixel((0, 0), (number % 256, number // 256, 7))  # no two are the same
        image.resize((64, 64)).save(folder / f"part-{number:04}.png")
    with served(model, "--images", folder) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 800})  # type: ignore[attr-defined]
        page.goto(address)
        page.locator("#progress-words", has_text="of 600 scored").wait_for()
        page.locator("#sort").select_option("name")
        page.locator(".card", has_text="part-0000").click()
        page.locator("#facts .file", has_text="part-0000").wait_for()
        page.locator("#scroller").press("End")
        page.locator("#facts .file", has_text="part-0599").wait_for()
        assert page.locator(".card").count() < 60
        page.close()


def test_a_folder_that_fills_up_is_followed(tab: Tab, gallery: Path, plug: Path) -> None:
    tab.scored()
    shutil.copy(plug / "plug/test/spot/005.png", gallery / "arrived.png")
    tab.card("arrived.png").wait_for(timeout=30_000)
