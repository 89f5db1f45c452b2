"""What people hand to a detector that cannot be: one sentence, nothing changed, and nobody waits for ever."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.exported import PICTURE, picture, pixels

from anomalib_nagl.bank.pool_rows import checksums
from anomalib_nagl.edge import EdgeError, NaglEdge
from anomalib_nagl.edge.detector import _prediction

IMAGE = np.full((60, 50, 3), 90, np.uint8)
MASK = np.ones((60, 50))


class Raises:
    def __array__(self, *arguments: object, **options: object) -> np.ndarray:
        raise RuntimeError("no such thing")


@pytest.fixture(scope="module")
def detector(exported_once: Path, tmp_path_factory: pytest.TempPathFactory) -> NaglEdge:
    """A detector that no test may change: what they do is refused."""
    folder = tmp_path_factory.mktemp("border") / "openvino"
    shutil.copytree(exported_once.parent, folder)
    return NaglEdge(folder / "model.xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requests": "2"}, "found '2' requests"),
        ({"requests": 1.5}, "found 1.5 requests"),
        ({"requests": True}, "found True requests"),
        ({"requests": None}, "found None requests"),
        ({"requests": 0}, "found 0 requests"),
        ({"device": None}, "found device None"),
        ({"device": ""}, "found device ''"),
        ({"device": 5}, "found device 5"),
        ({"precision": 16}, "found precision 16"),
        ({"precision": ""}, "found precision ''"),
        ({"author": 5}, r"found author '5' \(int\)"),
        ({"author": "two\nlines"}, "found author"),
        ({"bank": ""}, r"found '' \(str\) as a reference bank"),
        ({"bank": b"part.bank"}, r"\(bytes\) as a reference bank"),
        ({"bank": 5}, r"found '5' \(int\) as a reference bank"),
        ({"cache": 5}, r"found '5' \(int\) as a cache folder"),
        ({"model": None}, r"found 'None' \(NoneType\) as a model"),
        ({"model": ""}, r"found '' \(str\) as a model"),
        ({"model": Path()}, r"found '\.' \(PosixPath\) as a model"),
        ({"model": b"model.xml"}, r"\(bytes\) as a model"),
        ({"model": "a\0b"}, "as a model, expected the path of a file"),
        ({"model": "n" * 5000}, "names of at most 240 bytes"),
        ({"model": "/etc/passwd/model.xml"}, "found no model.json"),
    ],
)  # fmt: skip
def test_arguments(arguments: dict[str, Any], message: str, exported_once: Path) -> None:
    with pytest.raises(EdgeError, match=message):
        NaglEdge(**{"model": exported_once, **arguments})


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e38, 0, 1.0, -0.5, "abc", "1", [0.1, 0.2], 1j, True, None.__class__, np.zeros(2)],
)
@pytest.mark.parametrize("kind", ["image", "pixel"])
def test_thresholds(value: Any, kind: str, detector: NaglEdge) -> None:
    before = detector.thresholds
    with pytest.raises(EdgeError, match=r"found threshold .*expected a number between 0 and 1"):
        detector.set_thresholds(**{kind: value})
    assert detector.thresholds == before


@pytest.mark.parametrize(
    ("use", "message"),
    [
        *[(lambda d, given=given: d.predict(given), "found an image")
          for given in ([[1, 2], [3]], Raises(), None, np.array([[None]]))],
        *[(lambda d, given=given: d.add_normal(given), "found an image") for given in ([[1, 2], [3]], Raises())],
        *[(lambda d, given=given: d.add_abnormal(IMAGE, given), "found a mask")
          for given in ([[1, 2], [3]], Raises(), MASK * np.nan, np.where(np.eye(60, 50), np.nan, 1), [["a"] * 50])],
        *[(lambda d, name=name: d.add_abnormal(IMAGE, MASK, name), "found name")
          for name in (5, b"part", ["part"], Path("part"), math.nan, "", "two\nlines", "n" * 1001)],
        *[(lambda d, kind=kind: d.add_abnormal(IMAGE, MASK, "new", kind), "found defect type")
          for kind in (5, None, b"dent", ["dent"])],
        *[(lambda d, name=name: d.remove(name), "found name") for name in (None, 5, ["part"])],
        (lambda d: d.rename("normal 0", None), "found name"),
        (lambda d: d.lesson(5), "found name"),
        (lambda d: d.undo("one"), "found no change one"),
        (lambda d: d.undo([1]), "found no change"),
        (lambda d: d.predict_all(None), "found 'None' as images"),
        (lambda d: d.predict_all("part.png"), "found 'part.png' as images"),
        (lambda d: d.predict_all(7), "found '7' as images"),
        (lambda d: d.score(None), "found tokens of shape None and type NoneType"),
        (lambda d: d.score(np.zeros((3, 3), np.float32)), "found tokens of shape"),
        (lambda d: d.score(d.encode(IMAGE).astype(np.float64)), "type float64"),
        (lambda d: d.score(d.encode(IMAGE) * np.float32(np.nan)), "found tokens that are no number"),
        (lambda d: d.save(None), r"found 'None' \(NoneType\) as a reference bank"),
        (lambda d: d.save(""), "as a reference bank"),
        (lambda d: d.save(b"part"), r"\(bytes\) as a reference bank"),
        (lambda d: d.save(d.bank.parent), "found a folder"),
        (lambda d: d.save("/etc/passwd/part.bank"), "found a folder that cannot be written"),
        (lambda d: d.save(d.bank.parent / ("n" * 300)), "names of at most 240 bytes"),
        (lambda d: d.load(None), r"as a reference bank"),
        (lambda d: d.load(d.bank.parent), "found no reference bank"),
        (lambda d: d.load("n" * 5000), "names of at most 240 bytes"),
        (lambda d: pickle.dumps(d), "each process"),
    ],
)  # fmt: skip
def test_what_cannot_be(use: Callable[[NaglEdge], object], message: str, detector: NaglEdge) -> None:
    before = detector.references, detector.bank.read_bytes()
    with pytest.raises(EdgeError, match=message):
        use(detector)
    assert (detector.references, detector.bank.read_bytes()) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pred_score", "anomaly_map", "patch_scores"])
def test_a_score_that_is_no_number_has_no_label(value: float, name: str) -> None:
    outputs = {name: np.zeros((1, 1, 4, 4)) for name in ("anomaly_map", "patch_scores")}
    outputs |= {name: np.zeros((1, 1)) for name in ("pred_score", "pred_label")}
    assert _prediction(outputs).label is False
    outputs[name].flat[0] = value
    with pytest.raises(EdgeError, match="found scores that are no number"):
        _prediction(outputs)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_pipes_are_refused_at_once(detector: NaglEdge, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.png")
    for use in (
        lambda: detector.predict(pipe),
        lambda: detector.add_normal(pipe),
        lambda: detector.add_abnormal(IMAGE, pipe),
        lambda: list(detector.predict_all([IMAGE, pipe])),
    ):
        with pytest.raises(EdgeError, match="a pipe, no regular file"):
            use()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_bank_of_impossible_numbers_is_not_answered_with_good(value: str, exported: Path) -> None:
    with closing(sqlite3.connect(exported.with_suffix(".bank"))) as connection, connection:
        for row, size, tokens, places in connection.execute("SELECT id, size, tokens, places FROM pool").fetchall():
            wrong = np.full(len(tokens) // 4, float(value), "<f4").tobytes()
            connection.execute(
                "UPDATE pool SET tokens = ?, checks = ? WHERE id = ?", (wrong, checksums(wrong, places, size), row)
            )
    with pytest.raises(EdgeError, match="found patch tokens from"):
        NaglEdge(exported)


def in_time(work: Callable[[], list[float]]) -> list[float]:
    """What a thread finds within a minute."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.extend(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    return found


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another thread"])
def test_images_may_come_from_somebody_who_predicts(requests: int, elsewhere: bool, exported_once: Path) -> None:
    """And whoever takes the answers may predict as well, and stop half-way."""
    detector = NaglEdge(exported_once, requests=requests, author="nobody")
    given = [pixels(picture(PICTURE, seed, seed % 2 == 1)) for seed in range(5)]
    expected = [detector.predict(image).score for image in given]
    with ThreadPoolExecutor(1) as pool:

        def predict(image: np.ndarray) -> float:
            return pool.submit(detector.predict, image).result().score if elsewhere else detector.predict(image).score

        def asking() -> Iterator[np.ndarray]:
            for image, score in zip(given, expected, strict=True):
                assert predict(image) == pytest.approx(score, abs=1e-5)
                yield image
                list(detector.predict_all([image]))

        def work() -> list[float]:
            scores = []
            for found in detector.predict_all(asking()):
                scores.append(found.score)
                predict(given[0])
            next(half := detector.predict_all(given))
            half.close()
            return [*scores, *(predict(image) for image in given)]

        assert in_time(work) == pytest.approx(expected * 2, abs=1e-5)


def test_an_image_that_will_not_do_leaves_all_requests(detector: NaglEdge) -> None:
    def broken() -> Iterator[Any]:
        yield IMAGE
        raise KeyError("camera")

    for images, error in (([IMAGE, None, IMAGE], EdgeError), (broken(), KeyError)):
        with pytest.raises(error):
            list(detector.predict_all(images))
    assert in_time(lambda: [detector.predict(IMAGE).score]) == [pytest.approx(detector.predict(IMAGE).score)]
