"""The page on days that grow dark, in a real browser."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import PART, Tab

from anomalib_nagl.bank.drift import FEWEST

pytestmark = pytest.mark.slow
NOON = datetime(2026, 1, 31, 12).timestamp()
LIGHT = (1.0, 0.97, 0.6, 0.35)  # of one day after the other
DARK = len(LIGHT) - 1


@pytest.fixture
def gallery(plug: Path, tmp_path: Path) -> Path:
    """Good images of several days, each darker than the one before; of the first there are few."""
    folder = tmp_path / "images"
    folder.mkdir()
    drawn = sorted((plug / PART / "test/good").glob("*.png"))
    for day, light in enumerate(LIGHT):
        for number in range(FEWEST if day else FEWEST // 2):
            pixels = np.asarray(Image.open(drawn[number % len(drawn)])).astype(float)
            noise = np.random.default_rng(number).normal(0, 2, pixels.shape)
            path = folder / f"day-{day}-{number:02}.png"
            Image.fromarray((pixels * light + noise).clip(0, 255).astype(np.uint8)).save(path)
            os.utime(path, (NOON + 86_400 * day,) * 2)
    return folder


def test_days_that_grow_dark_are_told_and_drawn(tab: Tab, gallery: Path) -> None:
    end = time.monotonic() + 60
    while tab.ask("/api/state")["drift"]["compared"] < len(list(gallery.iterdir())):
        assert time.monotonic() < end, "comparing took too long"
        time.sleep(0.1)
    found = tab.ask("/api/drift")
    assert found["days"][DARK]["side"] == "less"
    tab.page.locator("#drifted", has_text="3 Feb 2026: less like the references").click()
    view = tab.page.locator("#view-drift")
    view.locator(".told", has_text="Images of 3 Feb 2026 are less like the good references").wait_for()
    assert f"{found['days'][DARK]['quantiles'][2]:.3f} in the middle" in view.locator(".told").first.inner_text()
    assert view.locator("svg .day").count() == len(LIGHT)
    assert view.locator("svg .day.few").count() == 1
    assert view.locator("svg .day.left").count() == sum(one["side"] is not None for one in found["days"])
    tops = view.locator("svg .day .half").evaluate_all("all => all.map((one) => one.getBoundingClientRect().y)")
    assert 0 < tops[1] < tops[DARK]  # what is less alike stands lower
    view.locator("summary").click()
    newest = view.locator("tbody tr").first
    assert newest.locator("td").all_inner_texts()[:2] == ["3 Feb 2026", str(FEWEST)]
    assert newest.locator("td").last.inner_text() == "less alike"
    assert view.locator("tbody tr td:last-child").last.inner_text() == "too few images to say"
    tab.picture("app-drift")
