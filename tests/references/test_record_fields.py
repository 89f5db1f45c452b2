"""A ``references.json`` that somebody edited: one sentence, whatever is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.parts import part, write

from anomalib_nagl.references.record import make_record, read_record, write_record
from anomalib_nagl.references.reference_set import load_references
from anomalib_nagl.references.sample import Sample


@pytest.fixture
def record(folder: Path) -> Path:
    image, mask = part(1, True)
    write(Path("refs/a.png"), part(0)[0])
    write(Path("refs/b.png"), image)
    write(Path("refs/m/b.png"), mask)
    references = load_references([Sample("refs/a.png")], [Sample("refs/b.png", "refs/m/b.png", "dent")])
    selection = {"seed": 0, "strategy": "uniform", "masks": "auto", "synthetic": "perlin", "synthetic_abnormal": 0}
    return write_record(make_record(references.records(), selection), "run")


def edit(path: Path, change: Callable[[dict[str, Any], list[dict[str, Any]]], object]) -> None:
    content = json.loads(path.read_text())
    change(content, content["references"])
    path.write_text(json.dumps(content))


def test_as_it_was_written(record: Path) -> None:
    edit(record, lambda content, entries: None)
    assert [sample.image for sample in read_record(record).files.abnormal] == ["refs/b.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, e: c.pop("root"), "without root"),
        (lambda c, e: c.update(root=7), "whose root is int '7', expected str: use the file"),
        (lambda c, e: c.update(root=None), "whose root is NoneType"),
        (lambda c, e: [c.update(root="r" * 5000), e[0].update(path="q" * 5000)], "is missing, not found in"),
        (lambda c, e: c.pop("references"), "without references"),
        (lambda c, e: c.update(references={}), "whose references is dict"),
        (lambda c, e: c.update(selection=[]), "whose selection is list"),
        (lambda c, e: c.update(format=["x"]), "it has no format"),
        (lambda c, e: c["selection"].update(synthetic_abnormal="two"), "whose synthetic_abnormal is str 'two'"),
        (lambda c, e: c["selection"].update(synthetic_abnormal=1.5), "whose synthetic_abnormal is float"),
        (lambda c, e: c["selection"].update(strategy=[]), "whose strategy is list"),
        (lambda c, e: c["selection"].update(seed=None), "whose seed is NoneType"),
        (lambda c, e: e.append(5), "int '5' as reference 2"),
        (lambda c, e: e[1].pop("kind"), "reference 1 of .* without kind"),
        (lambda c, e: e[1].pop("sha256"), "without sha256"),
        (lambda c, e: e[1].pop("defect_type"), "without defect_type"),
        (lambda c, e: e[1].pop("mask_sha256"), "without mask_sha256"),
        (lambda c, e: e[1].update(defect_type=7), "whose defect_type is int"),
        (lambda c, e: e[1].update(kind="odd"), "with kind that cannot be"),
        (lambda c, e: e[1].update(mask_path=["a"]), "whose mask_path is list"),
        (lambda c, e: e[1].update(mask_path_2=7), "with mask_path_2 that cannot be"),
        (lambda c, e: e[1].update(path=None), "with path that cannot be"),
    ],
)
def test_fields_that_cannot_be(change: Callable[..., object], message: str, record: Path) -> None:
    edit(record, change)
    with pytest.raises(ValueError, match=f"(?s)found .*{message}"):
        read_record(record)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"format": NaN}'])
def test_what_is_no_record(content: bytes, record: Path) -> None:
    record.write_bytes(content)
    with pytest.raises(ValueError, match="no record of references"):
        read_record(record)
