"""What the box refuses, what a failure leaves behind, and threads that predict while references change."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.exported import PICTURE, defect_mask, picture, pixels, teach

from anomalib_nagl.edge import EdgeError, NaglEdge

GRAPHS = ("model", "model.encoder", "model.scorer", "model.references")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def other_compatibility(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        manifest = path.with_name("model.json")
        content = json.loads(manifest.read_text())
        content["compatibility"][key] = {"grid": [8, 8]}.get(key, "another")
        manifest.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        *[(f"{graph}{suffix}", spoil, f"{graph}{suffix}") for graph in GRAPHS for suffix in (".xml", ".bin")
          for spoil in (cut, flip, Path.unlink)],
        ("model.bank", cut, "truncated or edited"),
        ("model.bank", Path.unlink, "found no reference bank"),
        ("model.json", cut, "cannot be read"),
        ("model.json", Path.unlink, r"found no model\.json"),
        ("model.bank", other_compatibility("backbone"), "another model: .*backbone"),
        ("model.bank", other_compatibility("head"), "another model: .*head"),
        ("model.bank", other_compatibility("grid"), "another model: .*grid"),
    ],
)  # fmt: skip
def test_spoilt_files_are_refused_by_name(box: Path, name: str, spoil: Callable[[Path], None], message: str) -> None:
    spoil(box.with_name(name))
    with pytest.raises(EdgeError, match=f"(?s){message}"):
        NaglEdge(box)


def test_a_bank_of_another_head_changes_nothing(exported: Path, tmp_path: Path) -> None:
    detector, foreign = NaglEdge(exported), tmp_path / "foreign.bank"
    detector.save(foreign)
    with closing(sqlite3.connect(foreign)) as connection, connection:
        connection.execute("UPDATE model SET value = '\"another one\"' WHERE name = 'backbone'")
    with pytest.raises(EdgeError, match=r"backbone .* instead of"):
        detector.load(foreign)
    assert len(detector.references) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.remove("nobody"), "no reference named 'nobody', expected one of 'normal 0'"),
        (lambda d: teach(d, "abnormal", 0), "already, expected another name"),
        (lambda d: d.add_abnormal(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), "x"), "empty mask"),
        (lambda d: d.add_abnormal(np.zeros((9, 9, 3), np.uint8), np.ones((9, 8)), "x"), r"mask of size \(9, 8\)"),
        (
            lambda d: d.add_normal(np.zeros((9, 9, 2), np.uint8)),
            r"shape \(9, 9, 2\) .*expected a grey value, RGB or RGBA",
        ),
        (lambda d: d.predict(np.full((9, 9, 3), 200.0)), "values from 200 to 200 .*expected 0 to 1: scale it"),
        (lambda d: d.predict(np.full((9, 9, 3), np.nan)), "values from nan to nan .*expected 0 to 1: scale it"),
        (lambda d: d.predict(np.zeros((9, 9, 3), np.int64)), "type int64"),
        (lambda d: d.predict("nowhere.png"), r"nowhere\.png"),
        (
            lambda d: [d.remove("normal 0"), d.remove("abnormal 0")],
            "without a single normal patch",
        ),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(
    exported: Path, change: Callable[[NaglEdge], object], message: str
) -> None:
    detector = NaglEdge(exported)
    with pytest.raises(EdgeError, match=message):
        change(detector)
    assert "abnormal 0" in {one.name for one in detector.references}


def test_a_failed_write_leaves_the_old_bank(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, pack = NaglEdge(exported), tmp_path / "pack.bank"
    detector.save(pack)
    before = pack.read_bytes()
    teach(detector, "abnormal", 1)

    def fail(*files: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        detector.save(pack)
    assert pack.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["pack.bank"]


def test_threads_never_see_a_mix(exported: Path) -> None:
    """Four threads predict, by themselves and through the queue, while references come and go."""
    detector, image = NaglEdge(exported, requests=3), pixels(picture((100, 120), 71, True))
    extra = picture(PICTURE, 11), picture(PICTURE, 21, defect=True)

    def change() -> Iterator[None]:
        detector.add_normal(pixels(extra[0]), name="more")
        yield
        detector.add_abnormal(pixels(extra[1]), defect_mask(PICTURE, 21).numpy(), name="defect")
        yield
        detector.remove("more")
        yield
        detector.remove("defect")
        yield

    allowed = []
    for _ in change():
        found = detector.predict(image)
        allowed.append((found.score, found.map))
    assert min(abs(a[0] - b[0]) for i, a in enumerate(allowed) for b in allowed[:i]) > 1e-4
    wrong: list[float] = []
    counts = [0] * len(allowed)
    stop = threading.Event()

    def check(score: float, heat: np.ndarray) -> None:
        same = [abs(score - s) < 1e-5 and np.abs(heat - m).max() < 1e-5 for s, m in allowed]
        if any(same):
            counts[same.index(True)] += 1
        else:
            wrong.append(score)

    def hammer(queued: bool) -> None:
        while not stop.is_set():
            found = detector.predict_all([image] * 4) if queued else [detector.predict(image)]
            for one in found:
                check(one.score, one.map)

    threads = [threading.Thread(target=hammer, args=(i == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        for _ in change():
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(counts) > 20
    assert sum(count > 0 for count in counts) >= 2
