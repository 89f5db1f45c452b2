"""How alike the images of each day are to the references, as the page's server tells it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.exported import PICTURE, picture, pixels, teach
from support.page import Person, png, served, wait

from anomalib_nagl.bank.drift import DAYS, FEWEST, normal_patches, own_range, similarity
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.app.likeness import SHARES
from anomalib_nagl.edge.app.workbench import Workbench

pytestmark = pytest.mark.slow  # they use an export
NOON = datetime(2026, 1, 31, 12).timestamp()
DAY = 86_400


def write(folder: Path, seeds: range, day: int, light: float = 1.0) -> None:
    """Images that were last changed so many days after the 31st of January."""
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        path = folder / f"part_{seed}.png"
        Image.fromarray((pixels(picture(PICTURE, seed)) * light).astype(np.uint8)).save(path)
        os.utime(path, (NOON + day * DAY,) * 2)


@pytest.fixture
def taught(exported: Path) -> Path:
    """A model that knows three good images."""
    for number in (1, 2):
        teach(NaglEdge(exported), "normal", number)
    return exported


@pytest.fixture
def page(taught: Path, tmp_path: Path) -> Iterator[tuple[Workbench, TestClient]]:
    write(tmp_path / "images", range(100, 104), 0)
    write(tmp_path / "images", range(200, 200 + FEWEST), 1, 0.2)
    with served(taught, tmp_path / "images", tmp_path / "room") as found:
        yield found


@pytest.fixture
def ann(page: tuple[Workbench, TestClient]) -> Person:
    return Person(page[1], "ann")


def drift(one: Person, images: int) -> dict:
    """What is told once so many images were compared."""
    wait(lambda: one.get("/api/state")["drift"]["compared"] == images)
    return one.get("/api/drift")


def test_quantiles_of_each_day_are_those_of_its_images(ann: Person, taught: Path, tmp_path: Path) -> None:
    found = drift(ann, 4 + FEWEST)
    detector = NaglEdge(taught)
    normal, own = normal_patches(detector.patches), own_range(detector.patches)
    assert found["references"] == pytest.approx(own._asdict())
    assert list(found["allowed"].values()) == pytest.approx(own.allowed)
    assert [(one["day"], one["images"]) for one in found["days"]] == [("2026-01-31", 4), ("2026-02-01", FEWEST)]
    values = [similarity(detector.encode(tmp_path / f"images/part_{seed}.png"), normal) for seed in range(100, 104)]
    assert found["days"][0]["quantiles"] == pytest.approx(np.quantile(values, SHARES), abs=1e-5)
    assert (found["waiting"], found["earlier"]) == (0, 0)


def test_a_dark_day_is_told_of_and_one_with_few_images_is_not(ann: Person) -> None:
    few, dark = drift(ann, 4 + FEWEST)["days"]
    assert few["side"] is None
    assert few["sentence"] is None
    assert dark["side"] == "less"
    assert "images of 2026-02-01 are less like the normal references" in dark["sentence"]
    assert "look at light" in dark["sentence"]
    assert ann.get("/api/state")["drift"]["latest"] == dark


def test_another_good_reference_compares_all_images_anew(ann: Person, taught: Path, tmp_path: Path) -> None:
    first = drift(ann, 4 + FEWEST)
    detector = NaglEdge(taught)
    teach(detector, "abnormal", 3)  # a defect says nothing of what is normal
    wait(lambda: ann.get("/api/state")["revision"] == detector.revision)
    assert drift(ann, 4 + FEWEST) == first
    detector.add_normal(tmp_path / "images/part_200.png", "dark")
    wait(lambda: ann.get("/api/drift")["references"]["low"] < first["references"]["low"])
    dark = drift(ann, 4 + FEWEST)["days"][1]
    assert dark["quantiles"][0] > first["days"][1]["quantiles"][0]


def test_images_that_go_or_change_are_compared_as_they_are_now(ann: Person, tmp_path: Path) -> None:
    drift(ann, 4 + FEWEST)
    for seed in range(200, 200 + FEWEST):
        (tmp_path / f"images/part_{seed}.png").unlink()
    write(tmp_path / "images", range(100, 101), 2, 0.5)
    wait(lambda: [one["day"] for one in ann.get("/api/drift")["days"]] == ["2026-01-31", "2026-02-02"])
    assert [one["images"] for one in drift(ann, 4)["days"]] == [3, 1]
    assert ann.get("/api/state")["drift"]["latest"] is None


def test_a_dropped_image_is_of_the_day_that_the_browser_says(ann: Person) -> None:
    drift(ann, 4 + FEWEST)
    for seed, said in ((300, {"X-Changed": str(int((NOON + 5 * DAY) * 1000))}), (301, {}), (302, {"X-Changed": "-1"})):
        data = png(pixels(picture(PICTURE, seed)))
        answer = ann.client.post("/api/images", content=data, headers={**said, "Content-Type": "image/png"})
        assert answer.status_code == 201
    days = {one["day"]: one["images"] for one in drift(ann, 7 + FEWEST)["days"]}
    assert days["2026-02-05"] == 1
    assert days[time.strftime("%Y-%m-%d")] == 2


def test_one_good_reference_gives_days_without_a_range(exported: Path, tmp_path: Path) -> None:
    write(tmp_path / "images", range(100, 102), 0)
    with served(exported, tmp_path / "images", tmp_path / "room") as (_, client):
        found = drift(Person(client, "ann"), 2)
    assert found["references"] is None
    assert found["allowed"] is None
    assert found["days"][0]["images"] == 2
    assert found["days"][0]["side"] is None


def test_only_the_last_days_are_told(taught: Path, tmp_path: Path) -> None:
    for day in range(DAYS + 3):
        write(tmp_path / "images", range(day, day + 1), day)
    with served(taught, tmp_path / "images", tmp_path / "room") as (_, client):
        found = drift(Person(client, "ann"), DAYS + 3)
    assert len(found["days"]) == DAYS
    assert found["earlier"] == 3
    assert found["days"][-1]["day"] == datetime.fromtimestamp(NOON + (DAYS + 2) * DAY).strftime("%Y-%m-%d")
