"""The type of a defect: against a slow plain version, and shown alike by torch and by the box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import Limits, ReferencePatches
from anomalib_nagl.bank.defect_types import UNKNOWN, DefectType, known_types, type_of_defect
from anomalib_nagl.bank.nearest import NearestReference
from anomalib_nagl.bank.verdicts import Found, Rules, judge
from anomalib_nagl.io.prediction_text import line, notes

GRID, WIDTH = (4, 5), 6
Floats = NDArray[Any]


def patches(types: int = 3, each: int = 2, seed: int = 0, localized: bool = True) -> tuple[ReferencePatches, list[str]]:
    """Abnormal references of some types: tokens of a type lie about a direction of its own."""
    generator = np.random.default_rng(seed)
    count = types * each
    tokens = generator.standard_normal((count, 20, WIDTH)).astype(np.float32)
    marked = np.zeros((count, 20), np.float32)
    for i in range(count):
        marked[i, i : i + 4] = 1 if localized else 0
        tokens[i, i : i + 4, i % types] += 3
    normal = [generator.standard_normal((20, WIDTH)).astype(np.float32)]
    if not localized:
        marked[:] = 1
    found = ReferencePatches.of(normal, tokens, marked, np.full(count, localized), GRID, True, Limits.of(None))
    return found, [f"type {i % types}" for i in range(count)]


def cosine(x: Floats, y: Floats) -> float:
    return float(x.astype(np.float64) @ y / np.linalg.norm(x) / np.linalg.norm(y))


def alike(query: Floats, shown: list[Floats]) -> float:
    """The mean over patches of the largest cosine, patch by patch."""
    return float(np.mean([max(cosine(one, other) for part in shown for other in part) for one in query]))


def by_the_book(query: Floats, given: ReferencePatches, types: list[str]) -> tuple[str, float, bool]:
    shown = [one.marked.head(len(one.marked)) for one in given.abnormal]
    names = sorted(set(types))
    of_type = {name: [part for part, kind in zip(shown, types, strict=True) if kind == name] for name in names}
    found = {name: alike(query, parts) for name, parts in of_type.items()}
    best = max(names, key=lambda name: found[name])
    others = [
        max(alike(part, of_type[name]) for name in names if name != kind)
        for part, kind in zip(shown, types, strict=True)
    ]
    return best, found[best], found[best] >= np.mean(others) + np.std(others)


@pytest.mark.parametrize("each", [1, 3])
def test_the_type_is_that_of_the_nearest_patches(each: int) -> None:
    given, types = patches(each=each)
    known = known_types(given, types)
    assert known is not None
    generator, seen = np.random.default_rng(5), set()
    for number in range(30):
        query = generator.standard_normal((4, WIDTH)).astype(np.float32)
        query[:, number % WIDTH] += 3 * (number % 2)  # half of them like some type, or like none
        told, (name, similarity, certain) = type_of_defect(query, known), by_the_book(query, given, types)
        assert told is not None
        assert (told.nearest, told.known) == (name, certain)
        assert told.similarity == pytest.approx(similarity, abs=1e-5)
        assert told.label == (name if certain else UNKNOWN)
        seen.add(told.known)
    assert seen == {True, False}


def test_fewer_than_two_types_tell_nothing() -> None:
    given, types = patches()
    assert known_types(given, ["scratch"] * len(types)) is None
    assert known_types(*patches(localized=False)) is None  # an image that is marked as a whole shows no defect
    assert known_types(*patches(types=0)) is None
    assert type_of_defect(np.ones((1, WIDTH), np.float32), None) is None


def test_a_row_says_the_type_of_what_is_not_good() -> None:
    values, rules = np.zeros((4, 4), np.float32), Rules(0.5, 0.5)
    known = NearestReference(0, "normal", "a.png", "good", 0.5, DefectType("scratch", 0.8, True))
    strange = NearestReference(0, "normal", "a.png", "good", 0.5, DefectType("scratch", 0.2, False))
    row = judge("x.png", Found(0.9, values, known), (8, 8), rules)
    assert row.defect_type == "scratch"
    assert line(row) == "x.png: defective, score 0.900, type scratch, nearest a.png (good)"
    assert notes(row) == ["type scratch", "nearest a.png (good)"]
    assert judge("x.png", Found(0.51, values, strange), (8, 8), rules).defect_type == UNKNOWN
    assert judge("x.png", Found(0.1, values, known), (8, 8), rules).defect_type == ""
    assert judge("x.png", Found(0.9, values), (8, 8), rules).defect_type == ""


@pytest.mark.slow
def test_torch_and_the_box_tell_the_same_type(tmp_path: Path) -> None:
    from support.exported import PICTURE, defect_mask, picture, pixels

    from anomalib_nagl import Nagl, NaglEdge, ReferenceSet
    from anomalib_nagl.references.reference_set import ReferenceImage

    shown = [ReferenceImage(picture(PICTURE, 10), "normal", name="good.png")]
    shown += [
        ReferenceImage(picture(PICTURE, seed, defect=True), "abnormal", defect_mask(PICTURE, seed), f"{kind}.png", kind)
        for seed, kind in ((20, "dark"), (21, "bright"), (22, "grey"))
    ]
    model = Nagl("gabor", image_size=64, variant="discriminant", post_processor=False).eval()
    model.set_references(ReferenceSet(images=shown))
    detector = NaglEdge(model.to_openvino(tmp_path))
    queries = [picture(PICTURE, seed, defect=True) for seed in (30, 31, 33)]
    for query in queries:
        found = detector.predict(pixels(query)).nearest_reference
        expected = model.predict(query).nearest_reference
        assert found is not None
        assert found.found_type is not None
        assert expected.found_type is not None
        assert found.found_type[::2] == expected.found_type[::2]
        assert found.found_type.similarity == pytest.approx(expected.found_type.similarity, abs=1e-4)
    detector.remove("bright")
    detector.remove("grey")
    assert detector.predict(pixels(queries[0])).nearest_reference.found_type is None
