"""The page's server: what a person does on it, step by step, and what two of them do at once."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.commands import nagl
from support.exported import picture as drawn_picture
from support.exported import pixels
from support.page import ADDRESS, SIZE, Person, as_mask, defect, png, served, wait, write_images

from anomalib_nagl.bank.acceptance import Marked
from anomalib_nagl.edge import NaglEdge
from anomalib_nagl.edge.app.openapi import CALLS
from anomalib_nagl.edge.app.workbench import Workbench

pytestmark = pytest.mark.slow  # they use an export


@pytest.fixture
def page(exported: Path, tmp_path: Path) -> Iterator[tuple[Workbench, TestClient]]:
    with served(exported, write_images(tmp_path / "images"), tmp_path / "room") as found:
        yield found


@pytest.fixture
def ann(page: tuple[Workbench, TestClient]) -> Person:
    return Person(page[1], "ann")


@pytest.fixture
def bob(page: tuple[Workbench, TestClient]) -> Person:
    return Person(page[1], "bob")


def test_the_gallery_says_what_the_detector_says(ann: Person, exported: Path, tmp_path: Path) -> None:
    """And one bad image stops nothing."""
    scores = ann.scores()
    detector = NaglEdge(exported)
    for name, score in scores.items():
        assert score == pytest.approx(detector.predict(tmp_path / "images" / name).score, abs=1e-6)
    assert len(scores) == 6
    broken = ann.item("broken.png")
    assert broken["status"] == "failed"
    assert "expected an image" in broken["error"]
    state = ann.get("/api/state")
    assert state["gallery"] == {"total": 7, "encoded": 6, "failed": 1, "scored": 6, "waiting": 0}
    assert sum(state["counts"].values()) == 6


def test_sorted_searched_filtered_and_paged(ann: Person) -> None:
    scores = ann.scores()
    ranked = ann.get("/api/gallery", sort="-score")["items"]
    assert [one["name"] for one in ranked[:6]] == sorted(scores, key=lambda name: -scores[name])
    assert ranked[6]["status"] == "failed"
    second = ann.get("/api/gallery", sort="-score", offset=1, limit=2)
    assert second["total"] == 7
    assert [one["name"] for one in second["items"]] == [one["name"] for one in ranked[1:3]]
    assert ann.get("/api/gallery", search="DEFECT")["total"] == 3
    assert ann.get("/api/gallery", filter="failed")["items"][0]["name"] == "broken.png"
    assert ann.get("/api/gallery", filter="marked")["total"] == 0
    several = [ann.get("/api/gallery", filter=verdict)["total"] for verdict in ("good", "defective", "look again")]
    assert sum(several) == 6


def test_one_image_large(ann: Person, page: tuple[Workbench, TestClient], exported: Path, tmp_path: Path) -> None:
    ann.scores()
    key = ann.item("defect_1.png")["id"]
    found = ann.get(f"/api/images/{key}/prediction")
    expected = NaglEdge(exported).predict(tmp_path / "images/defect_1.png")
    assert found["score"] == pytest.approx(expected.score, abs=1e-6)
    assert (found["width"], found["height"]) == (260, 210)
    assert found["nearest"]["name"] == expected.nearest_reference.name
    client = page[1]
    map_ = np.asarray(Image.open(io.BytesIO(client.get(f"/api/images/{key}/map").content)))
    assert np.abs(map_ / 255 - expected.map.clip(0, 1)).max() < 0.003
    for kind, side in (("thumbnail", 256), ("picture", 260)):
        answer = client.get(f"/api/images/{key}/{kind}")
        assert max(Image.open(io.BytesIO(answer.content)).size) == side
        again = client.get(f"/api/images/{key}/{kind}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    areas = 0.0
    for region in found["regions"]:
        left, top, width, height = region["box"]
        for line in region["outline"]:
            x, y = np.array(line).T
            assert x.min() >= left - 1.5
            assert x.max() <= left + width + 1.5
            assert y.min() >= top - 1.5
            assert y.max() <= top + height + 1.5
            areas += 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    share = (expected.map > NaglEdge(exported).map_threshold).mean()
    assert abs(areas) / (260 * 210) == pytest.approx(share, abs=0.02)


def test_the_suggested_region_lies_at_the_click(ann: Person) -> None:
    ann.scores()
    key = ann.item("defect_0.png")["id"]
    peak = ann.get(f"/api/images/{key}/prediction")["regions"]
    whole = ann.post(f"/api/images/{key}/suggest")
    left, top, width, height = whole["box"]
    assert 0 <= left < left + width <= 260
    assert 0 <= top < top + height <= 210
    if peak:
        x, y = peak[0]["peak"]
        assert left - 2 <= x <= left + width + 2
        assert top - 2 <= y <= top + height + 2
    corner = ann.post(f"/api/images/{key}/suggest", x=5, y=5)
    assert corner["box"][0] < 60
    assert corner["box"][1] < 60
    assert "a place in the image" in ann.post(f"/api/images/{key}/suggest", 422, x=1000, y=5)["error"]


def test_a_lesson_is_a_draft_that_is_undone_and_done_again(ann: Person, exported: Path, tmp_path: Path) -> None:
    first = ann.scores()
    answer = ann.teach(0)
    taught = NaglEdge(exported)
    copy = tmp_path / "copy.bank"
    shutil.copy(taught.bank, copy)
    alone = NaglEdge(exported, bank=copy)
    alone.add_abnormal(tmp_path / "images/defect_0.png", read(defect(0)), "defect_0", "square")
    expected = alone.predict(tmp_path / "images/defect_0.png").score
    assert answer["before"]["score"] == pytest.approx(first["defect_0.png"], abs=1e-6)
    assert answer["after"]["score"] == pytest.approx(expected, abs=1e-5)
    second = ann.scores()
    assert second != first
    assert ann.item("defect_0.png")["before"]["score"] == pytest.approx(first["defect_0.png"], abs=1e-6)
    ann.draft("undo")
    assert ann.scores() == first
    ann.draft("redo")
    assert ann.scores() == second
    assert NaglEdge(exported).history() == taught.history()
    ann.draft("discard")
    assert ann.scores() == first
    assert ann.get("/api/state")["draft"] == {"steps": [], "can_undo": False, "can_redo": False}
    assert not list((tmp_path / "room").glob("draft-*"))


def read(mask: str) -> np.ndarray:
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask.partition(",")[2]))))


def test_fine_teaches_the_region_alone(ann: Person, exported: Path) -> None:
    ann.scores()
    one = ann.item("good_1.png")
    marked = np.zeros(SIZE, np.uint8)
    marked[20:120, 30:150] = 1
    ann.draft("fine", image=one["id"], mask=as_mask(marked), name="dust")
    ann.draft("save")
    detector = NaglEdge(exported)
    added = detector.references[-1]
    assert (added.kind, added.name, added.author) == ("region", "dust", "line")
    patches = len(detector.lesson("dust").pools["normal"])
    assert 0 < patches < detector.patches.cells * len(detector.patches.views) / 2


def test_saving_is_all_or_nothing_and_keeps_every_step(ann: Person, exported: Path) -> None:
    ann.scores()
    ann.teach(0, name="square one")
    uid = ann.get("/api/references")[-1]["uid"]
    ann.draft("reference", uid=uid, name="square two", type="notch")
    ann.draft("mark", image=ann.item("good_0.png")["id"], mark="good")
    ann.draft("thresholds", image=0.55)
    ann.draft("calibrate")
    drafted = ann.scores()
    state = ann.draft("save")
    assert state["draft"]["steps"] == []
    assert ann.scores() == pytest.approx(drafted, abs=1e-6)
    detector = NaglEdge(exported)
    assert [(one.name, one.defect_type) for one in detector.references[2:]] == [("square two", "notch")]
    assert detector.thresholds.image == 0.55
    actions = [change["action"] for change in reversed(ann.get("/api/history"))]
    assert actions == ["created", "add", "rename", "type", "mark", "thresholds", "calibrate"]
    assert [one["mark"] for one in ann.get("/api/acceptance")["rows"]] == ["good"]
    undone = ann.post("/api/history/2/undo")
    assert undone[0]["summary"].startswith("took back 2")
    assert len(NaglEdge(exported).references) == 2
    assert "taken back already" in ann.post("/api/history/2/undo", 422)["error"]


def test_references_are_shown_switched_and_removed(ann: Person, page: tuple[Workbench, TestClient]) -> None:
    first = ann.scores()
    ann.teach(1)
    taught = ann.scores()
    one = ann.get("/api/references")[-1]
    assert (one["kind"], one["type"], one["pending"], one["has_picture"]) == ("abnormal", "square", True, True)
    for role in ("picture", "mask"):
        answer = page[1].get(f"/api/references/{one['uid']}/{role}", headers=ann.headers)
        assert Image.open(io.BytesIO(answer.content)).size == (260, 210)
    ann.draft("reference", uid=one["uid"], active=False)
    assert ann.scores() == first
    ann.draft("reference", uid=one["uid"], active=True)
    assert ann.scores() == taught
    ann.draft("reference", uid=one["uid"], remove=True)
    assert ann.scores() == first
    texts = [step["text"] for step in ann.get("/api/state")["draft"]["steps"]]
    assert texts == ["taught defect_1 (square)", "switched off defect_1", "switched on defect_1", "removed defect_1"]
    ann.draft("save")
    assert len(ann.get("/api/references")) == 2


def test_two_people_and_a_command_line_lose_nothing(ann: Person, bob: Person, exported: Path, tmp_path: Path) -> None:
    ann.scores()
    ann.teach(0, name="of ann")
    bob.teach(1, name="of bob")
    assert [one["name"] for one in ann.get("/api/references")[2:]] == ["of ann"]
    bob.draft("save")
    image = str(tmp_path / "images/defect_2.png")
    assert nagl("edge", "add-defect", exported, image, "--name", "of the line") == 0
    names = [one["name"] for one in ann.get("/api/references")]
    assert set(names[2:]) == {"of ann", "of bob", "of the line"}
    assert ann.get("/api/state")["draft"]["can_undo"]
    ann.draft("thresholds", image=0.6)
    assert nagl("edge", "set-threshold", exported, "0.6") == 0
    bob.draft("thresholds", pixel=0.55)
    bob.draft("save")
    # What is so already falls away.
    assert [step["kind"] for step in ann.get("/api/state")["draft"]["steps"]] == ["teach"]
    assert NaglEdge(exported).thresholds == (0.6, 0.55)
    ann.draft("undo")
    ann.draft("redo")
    ann.draft("save")
    assert {one.name for one in NaglEdge(exported).references[2:]} == {"of ann", "of bob", "of the line"}
    assert {one["name"] for one in bob.get("/api/references")[2:]} == {"of ann", "of bob", "of the line"}


def test_what_is_saved_at_the_same_time_is_all_there(page: tuple[Workbench, TestClient], exported: Path) -> None:
    """Three people teach and save, over and over, while a command line does the same."""
    bench, client = page
    Person(client, "first").scores()

    def work(who: int) -> None:
        person = Person(TestClient(client.app, base_url=ADDRESS), f"person {who}")
        for i in range(2):
            person.teach(who, name=f"lesson {i} of {who}")
            person.draft("save")

    line = NaglEdge(exported, author="line")
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, who) for who in range(3)]
        for i in range(3):
            line.add_normal(pixels(drawn_picture(SIZE, 90 + i)), f"of the line {i}")
        for one in working:
            one.result()
    names = {one.name for one in NaglEdge(exported).references[2:]}
    assert names == {f"lesson {i} of {who}" for i in range(2) for who in range(3)} | {
        f"of the line {i}" for i in range(3)
    }
    wait(lambda: len(bench.saved.references) == 11)


def test_a_draft_that_no_longer_fits_is_refused_and_stays(ann: Person, bob: Person, exported: Path) -> None:
    ann.scores()
    uid = ann.get("/api/references")[0]["uid"]
    ann.teach(0, name="kept")
    ann.teach(1, name="square")
    ann.draft("reference", uid=uid, type="fresh")
    bob.teach(2, name="square")
    bob.draft("save")
    state = ann.get("/api/state")
    assert state["saved_by_others"]
    assert "name already" in ann.draft("save", 409)["error"]
    assert len(NaglEdge(exported).references) == 3
    steps = ann.get("/api/state")["draft"]["steps"]
    assert len(steps) == 3
    ann.draft("undo")
    ann.draft("undo")
    assert not ann.get("/api/state")["saved_by_others"]  # what is left fits
    ann.draft("save")
    assert {one.name for one in NaglEdge(exported).references[2:]} == {"square", "kept"}


def test_the_acceptance_set_says_what_a_lesson_does(
    ann: Person, page: tuple[Workbench, TestClient], exported: Path, tmp_path: Path
) -> None:
    scores = ann.scores()
    ann.draft("thresholds", image=round(max(scores.values()) + 0.02, 4))
    for name in ("defect_0.png", "defect_1.png", "good_0.png"):
        ann.draft("mark", image=ann.item(name)["id"], mark=name.partition("_")[0].replace("defect", "defective"))
    ann.draft("save")
    rows = {one["name"]: one for one in ann.get("/api/acceptance")["rows"]}
    assert [rows[name]["right_after"] for name in ("defect_0.png", "good_0.png")] == [False, True]
    ann.draft("thresholds", image=0.0001)
    found = ann.get("/api/acceptance")
    assert set(found["worse"]) == {"good_0.png"}
    assert set(found["better"]) == {"defect_0.png", "defect_1.png"}
    changes = ann.get("/api/changes")
    assert (changes["found"], changes["alarms"], changes["rising"]) == (2, 1, 3)
    assert changes["words"] == "labels changed: 2 missed found, 1 new alarm, 3 unmarked defective now"
    histogram = ann.get("/api/histogram", image=0.0001)
    assert (histogram["misses"], histogram["false_alarms"]) == (0, 1)
    assert sum(histogram["good"]) == 1
    assert sum(histogram["defective"]) == 2
    assert sum(histogram["unmarked"]) == 3
    assert ann.get("/api/histogram", image=0.9999)["misses"] == 2
    with served(exported, tmp_path / "images", tmp_path / "again") as (_, client):
        assert len(Person(client, "carl").scores()) == 6  # none of them twice
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    wait(lambda: ann.scores().keys() == rows.keys())  # as the bank keeps them
    with served(exported, None, tmp_path / "another") as (bench, client):
        assert {one.mark for one in bench.real.marked()} == {"good", "defective"}
        assert isinstance(bench.real.marked()[0], Marked)
        kept = Person(client, "carl")
        assert kept.scores() == pytest.approx({name: scores[name] for name in rows}, abs=1e-6)


def test_a_folder_that_fills_up_is_followed(ann: Person, tmp_path: Path) -> None:
    ann.scores()
    new = tmp_path / "images" / "new.png"
    Image.fromarray(pixels(drawn_picture(SIZE, 99))).save(new)
    wait(lambda: "new.png" in ann.scores())
    before = ann.scores()["new.png"]
    Image.fromarray(pixels(drawn_picture(SIZE, 98, True))).save(new)
    wait(lambda: ann.scores().get("new.png") not in (None, before))
    new.unlink()
    wait(lambda: "new.png" not in ann.scores())


def test_an_image_is_dropped_once(ann: Person, page: tuple[Workbench, TestClient]) -> None:
    content = png(pixels(drawn_picture(SIZE, 97, True)))
    headers = {"Content-Type": "image/png", "X-Name": "%C3%A4%2F..%2Fdropped.png"}
    keys = {page[1].post("/api/images", content=content, headers=headers).json()["id"] for _ in range(2)}
    assert len(keys) == 1
    wait(lambda: "dropped.png" in ann.scores())
    page[1].post("/api/images", content=content, headers={"Content-Type": "image/png"}).raise_for_status()
    assert ann.get("/api/state")["gallery"]["total"] == 8


def test_predict_keeps_nothing(ann: Person, page: tuple[Workbench, TestClient], exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "images/defect_2.png"
    answer = page[1].post("/api/predict", content=path.read_bytes(), headers={"Content-Type": "image/png"}).json()
    expected = NaglEdge(exported).predict(path)
    assert answer["score"] == pytest.approx(expected.score, abs=1e-6)
    assert answer["label"] == expected.label
    assert answer["verdict"] in ("good", "defective", "look again")
    assert ann.get("/api/state")["gallery"]["total"] == 7


def test_all_can_be_taken_along(
    ann: Person, page: tuple[Workbench, TestClient], exported: Path, tmp_path: Path
) -> None:
    scores = ann.scores()
    ann.draft("mark", image=ann.item("defect_0.png")["id"], mark="defective")
    ann.draft("save")

    def taken(name: str) -> bytes:
        answer = page[1].get(f"/api/export/{name}", headers=ann.headers)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment")
        return answer.content

    lines = taken("predictions.csv").decode().splitlines()
    assert len(lines) == 8
    assert f"{scores['defect_0.png']:.6f}" in next(line for line in lines if line.startswith("defect_0.png"))
    bank = tmp_path / "taken.bank"
    bank.write_bytes(taken("bank"))
    assert NaglEdge(exported, bank=bank).history() == NaglEdge(exported).history()
    with zipfile.ZipFile(io.BytesIO(taken("model.zip"))) as archive:
        assert sorted(archive.namelist()) == ["model.bin", "model.xml"]
    with zipfile.ZipFile(io.BytesIO(taken("overlays.zip"))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 6
    regions = json.loads(taken("regions.json"))
    assert {one["image"] for one in regions} == {*scores, "broken.png"}
    report = taken("report.html").decode()
    assert "defect_0.png" in report
    assert "data:image/png;base64," in report
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|<script""", report)
    assert page[1].get("/api/export/other").status_code == 404


def test_every_call_is_described(page: tuple[Workbench, TestClient]) -> None:
    described = page[1].get("/openapi.json").json()
    told = {(method, path) for path, methods in described["paths"].items() for method in methods}
    routes = set()
    for route in page[1].app._app.routes:  # type: ignore[attr-defined]  # what the guard guards
        if route.path.startswith("/api/"):
            method = "post" if "POST" in route.methods else "get"
            routes.add((method, route.path.replace(":int", "")))
    replaced = {(method, path.replace("{role}", role)) for method, path in routes for role in ("picture", "mask")}
    assert told == replaced
    assert len({call.path for call in CALLS}) == len(described["paths"])


def test_events_tell_of_progress(ann: Person, page: tuple[Workbench, TestClient]) -> None:
    state = ann.get("/api/state")
    assert state["gallery"]["total"] == 7
    bench = page[0]
    before = bench.scorer.version
    ann.scores()
    ann.teach(0)
    assert bench.scorer.version > before


def test_where_to_look_is_drawn_once(ann: Person, page: tuple[Workbench, TestClient], exported: Path) -> None:
    first = ann.scores()
    key = ann.item("defect_0.png")["id"]
    assert page[1].get("/api/region", params={"image": key}).status_code == 404
    half = np.zeros(SIZE, np.uint8)
    half[:, : SIZE[1] // 2] = 1
    assert ann.draft("region", image=key, mask=as_mask(half))["region"]["set"]
    shown = page[1].get("/api/region", params={"image": key}, headers=ann.headers)
    looked = np.asarray(Image.open(io.BytesIO(shown.content))) > 0
    assert looked.shape == SIZE
    assert np.mean(looked == (half > 0)) > 0.98
    second = ann.scores()
    assert second != first
    ann.draft("save")
    assert ann.get("/api/history")[0]["summary"] == "look at 50% of the picture"
    detector = NaglEdge(exported)
    assert detector.region is not None
    assert detector.region.mean() == pytest.approx(0.5, abs=0.02)
    assert ann.scores() == second
    assert not ann.draft("region", mask=None)["region"]["set"]
    assert ann.scores() == first
