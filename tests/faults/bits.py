"""One bit of a file is turned around: the answer stays as it was, or the file is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faults import entries
from faults.case import EITHER, Case, World


class Target(NamedTuple):
    """A file whose bits are turned, how it is read, and whether a changed answer has to be noticed.

    ``every``: of so many bits, the whole campaign turns one; the quick part takes ``sample`` of them.
    """

    kind: str
    place: Callable[[World], Path]
    enter: Callable[[World, Path], Any]
    like: Callable[[World], Any] | None
    every: int
    sample: int


def write_tokens(world: World) -> Path:
    """A token file as a training leaves it in its cache."""
    import torch

    from anomalib_nagl.plugin.token_store import FileStore

    store = FileStore(world.room / "tokens", "recipe", ["0" * 64], (4, 3), torch.float32)
    store.put([0], torch.arange(12.0).reshape(1, 4, 3))
    return next((world.room / "tokens/recipe").iterdir())


def read_tokens(world: World, path: Path) -> str:
    """The tokens as they were written, or word that they are missing."""
    import torch

    from anomalib_nagl.plugin.token_store import FileStore

    del path
    store = FileStore(world.room / "tokens", "recipe", ["0" * 64], (4, 3), torch.float32)
    if not store.missing:
        assert torch.equal(store[torch.tensor([0])], torch.arange(12.0).reshape(1, 4, 3)), "other tokens"
    return "as written, or made anew"


def write_cell(world: World) -> Path:
    """A finished cell of an evaluation."""
    from dataclasses import fields

    from anomalib_nagl.evaluation import results
    from anomalib_nagl.evaluation.records import METRICS, Cell

    values = {field.name: 1 if field.type in ("int", int) else "word" for field in fields(Cell)}
    cell = Cell(**values)
    results.write_cell(world.room, cell, 3, dict.fromkeys(METRICS, 0.5), 1.0)
    return results.cell_path(world.room, cell)


def read_cells(world: World, path: Path) -> int:
    from anomalib_nagl.evaluation.results import read_results

    del path
    return len(read_results(world.room, {}))


def write_record(world: World) -> Path:
    from faults.torch_side import RECORDS, _record

    return _record(RECORDS["as it should be"][0])(world)


# Where a sum of numbers stands beside them, another answer is an error; elsewhere only foreign exceptions are.
TARGETS = (
    Target("bits of a bank", lambda w: w.copy(w.bank), entries.open_bank, entries.shared_bank, 121, 150),
    Target("bits of a manifest", lambda w: w.copy(w.model).with_name("model.json"),
           lambda w, path: entries.open_detector(w, path.with_name("model.xml")), entries.shared_answer, 167, 12),
    Target("bits of a token file", write_tokens, read_tokens, None, 3, 40),
    Target("bits of a head", lambda w: w.copy(w.head), entries.load_head, None, 3001, 10),
    Target("bits of a checkpoint", lambda w: w.copy(w.checkpoint), entries.load_checkpoint, None, 8009, 10),
    Target("bits of a cell", write_cell, read_cells, None, 5, 20),
    Target("bits of a record", write_record, entries.read_record, None, 61, 10),
)  # fmt: skip


def _turned(place: Callable[[World], Path], where: float | int) -> Callable[[World], Path]:
    """Turn a bit: its number, or a share of the file."""

    def write(world: World) -> Path:
        path = place(world)
        content = bytearray(path.read_bytes())
        bit = int(where * len(content) * 8) if isinstance(where, float) else where
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(content))
        return path

    return write


def sampled() -> Iterator[Case]:
    """A seeded sample."""
    for target in TARGETS:
        generator = random.Random(target.kind)
        for _ in range(target.sample):
            where = generator.random()
            make = _turned(target.place, where)
            yield Case(target.kind, f"at {where:.6f} of it", make, target.enter, EITHER, target.like)


def all_of_them(sizes: dict[str, int]) -> Iterator[Case]:
    """One of ``every`` bits of each file, of which the size in bytes is known."""
    for target in TARGETS:
        for bit in range(0, sizes[target.kind] * 8, target.every):
            yield Case(target.kind, f"bit {bit}", _turned(target.place, bit), target.enter, EITHER, target.like, False)


def said() -> str:
    """Which part of the bits is turned, for the page about it."""
    return json.dumps({target.kind.removeprefix("bits of "): target.every for target in TARGETS})
