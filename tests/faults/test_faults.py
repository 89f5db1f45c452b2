"""The quick part of the campaign, and properties of what anybody may hand over: none ends in a foreign exception."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from support.once import once

from anomalib_nagl.io.errors import EdgeError
from faults import bits, catalogue, entries
from faults.case import WRONG, Case, World, judge
from faults.world import build, in_room, world

# Always the same examples, few of them: `make faults` is for more.
PROPERTY = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
QUICK = [case for case in [*catalogue.cases(), *bits.sampled()] if case.quick]
TYPES = ["u1", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "?", "U3", "O", "M8[s]"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@contextmanager
def allowing_refusal() -> Iterator[None]:
    """An answer, or a sentence of ours."""
    try:
        yield
    except EdgeError as error:
        if "\n" in str(error) or not re.search("expected|copy", str(error)):
            raise AssertionError(f"no sentence: {error}") from error


@pytest.fixture(scope="module")
def shared(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = once(run_folder / "faults", build)
    return in_room(world(made, made), tmp_path_factory.mktemp("faults") / "room")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", sorted({case.kind for case in QUICK}))
def test_no_case_ends_wrong(kind: str, shared: World) -> None:
    chosen = [case for case in QUICK if case.kind == kind]
    ends = {str(case): judge(case, in_room(shared, shared.room)) for case in chosen}
    assert {name: end.words for name, end in ends.items() if end.outcome == WRONG} == {}


def test_the_judge_tells_answers_refusals_and_wrongs(shared: World) -> None:
    def ends(enter: Any, expected: str, like: Any = None) -> str:
        return judge(Case("", "", lambda _: None, enter, expected, like), shared).outcome

    def foreign(*_: object) -> None:
        raise KeyError("found and expected")

    assert ends(lambda *_: 1, "answer") == "answered"
    assert ends(lambda *_: 1, "answer", lambda _: 2) == WRONG
    assert ends(lambda *_: 1, "refused") == WRONG
    assert ends(lambda *_: entries.predict(shared, "nowhere.png"), "refused") == "refused"
    assert ends(lambda *_: entries.predict(shared, "nowhere.png"), "answer") == WRONG
    assert ends(foreign, "refused") == WRONG


@PROPERTY
@given(data=st.data())
def test_any_array_is_scored_or_refused(shared: World, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(TYPES))
    shape = data.draw(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    values = st.none() if kind == "O" else None
    image = data.draw(arrays(kind, shape, elements=values))
    with allowing_refusal():
        assert 0 <= entries.predict(shared, image) <= 1


@PROPERTY
@given(head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"P6 ", b"BM", b"DDS "]),
       rest=st.binary(max_size=200))  # fmt: skip
def test_any_file_is_read_or_refused(shared: World, head: bytes, rest: bytes) -> None:
    path = shared.room / "any.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(head + rest)
    with allowing_refusal():
        entries.predict(shared, path)


@PROPERTY
@given(name=st.sampled_from(["tokens", "gains", "checks", "places", "size", "content", "role", "area"]),
       value=st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=600))  # fmt: skip
def test_any_value_in_a_bank_is_read_or_refused(shared: World, name: str, value: object) -> None:
    import sqlite3
    from contextlib import closing

    room = in_room(shared, shared.room)
    path = room.copy(room.bank)
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE pool SET {name} = ? WHERE id = 1", (value,))
    except sqlite3.IntegrityError:
        return  # no such file can be made
    with allowing_refusal():
        entries.open_bank(room, path)


@PROPERTY
@given(key=st.sampled_from(["format", "compatibility", "files", "outputs", "head_trained"]), value=JSON)
def test_any_manifest_is_read_or_refused(shared: World, key: str, value: object) -> None:
    from anomalib_nagl.io.export_manifest import read_export_manifest

    content = json.loads(shared.model.with_name("model.json").read_text())
    path = shared.room / "model.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, "files": {}, key: value}))
    with allowing_refusal():
        read_export_manifest(path)


@PROPERTY
@given(key=st.sampled_from(["kind", "sha256", "path", "defect_type", "mask_path", "mask_sha256"]), value=JSON)
def test_any_record_is_read_or_refused(shared: World, key: str, value: object) -> None:
    from anomalib_nagl.references.record import FORMAT, read_record

    shared.room.mkdir(exist_ok=True)
    path = shared.room / "references.json"
    entry = {"kind": "normal", "sha256": "0", "path": "a.png", "defect_type": "good", key: value}
    path.write_text(json.dumps({"format": FORMAT, "root": "", "selection": {}, "references": [entry]}))
    with pytest.raises(ValueError, match="expected") as refused:
        read_record(path)
    assert type(refused.value) in (ValueError, EdgeError)


@PROPERTY
@given(value=st.floats() | st.integers() | st.text(max_size=5) | st.binary(max_size=5))
def test_any_threshold_is_taken_or_refused(shared: World, value: Any) -> None:
    detector = entries.detector(shared.model)
    if isinstance(value, (int, float)) and 0 < value < 1:
        return  # taken; the shared detector is left alone
    with pytest.raises(EdgeError, match="expected"):
        detector.set_thresholds(value, 0.5)
