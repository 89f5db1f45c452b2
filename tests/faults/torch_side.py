"""What is given to the side with torch: folders, records of references, heads, checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import entries
from faults.case import ANSWER, EITHER, REFUSED, Case, World

MANY = 10_000


def _folder(change: Callable[[Path], object]) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        folder = world.copy(world.references)
        change(folder)
        return folder

    return write


def _circle(folder: Path) -> None:
    (folder / "normal/again").symlink_to(folder, target_is_directory=True)
    (folder / "abnormal/dent/again").symlink_to(folder / "abnormal", target_is_directory=True)


def _many(folder: Path) -> None:
    """Ten thousand files that are no images among the masks."""
    for i in range(MANY):
        (folder / "masks" / f"{i}.txt").touch()


def _many_images(folder: Path) -> None:
    first = folder / "normal/0.png"
    for i in range(MANY):
        os.link(first, folder / "normal" / f"many{i}.png")


def _named(name: str | bytes) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        os.makedirs(os.path.join(os.fsencode(folder), b"abnormal", os.fsencode(name)))
        source = folder / "abnormal/dent/0.png"
        shutil.copy(os.fsencode(source), os.path.join(os.fsencode(folder), b"abnormal", os.fsencode(name), b"1.png"))

    return change


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "as it should be": (lambda _: None, ANSWER),
    "links in a circle": (_circle, EITHER),
    "a link to itself": (lambda folder: (folder / "normal/self").symlink_to("self"), EITHER),
    "10,000 other files": (_many, ANSWER),
    "a defect type of markup": (_named("[/]"), ANSWER),
    "a defect type of a terminal's code": (_named("\x1b[2J"), EITHER),
    "a defect type that is not UTF-8": (_named(b"\xff"), EITHER),
    "a defect type of two lines": (_named("a\nb"), EITHER),
    "a defect type of 255 letters": (_named("n" * 255), ANSWER),
    "no image": (lambda folder: [path.unlink() for path in folder.rglob("*.png")], REFUSED),
    "nothing": (shutil.rmtree, REFUSED),
    "a file in its place": (lambda folder: (shutil.rmtree(folder), folder.touch()), REFUSED),
    "a mask of another size": (lambda f: shutil.copy(f.parents[0] / "wide.png", f / "masks/dent/0.png"), REFUSED),
    "a mask that is empty": (lambda folder: (folder / "masks/dent/0.png").write_bytes(b""), REFUSED),
    "a mask of nothing": (lambda folder: (folder / "masks/dent/1.png").write_bytes(b""), EITHER),
    "a normal image less its end": (lambda folder: os.truncate(folder / "normal/0.png", 200), REFUSED),
}


def _folder_cases() -> Iterator[Case]:
    for what, (change, expected) in FOLDERS.items():

        def make(world: World, change: Callable[[Path], object] = change) -> Path:
            from PIL import Image

            Image.new("L", (90, 10), 255).save(world.room / "wide.png")
            return _folder(change)(world)

        yield Case("folders", what, make, entries.scan_folder, expected)
        in_command = ANSWER if expected == ANSWER else EITHER  # it shows what is wrong in a table
        yield Case("folders", f"references check: {what}", make, entries.check_folder, in_command)
    yield Case("folders", "10,000 references", _folder(_many_images), entries.scan_folder, EITHER, quick=False)


def _record(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], Path]:
    def write(world: World) -> Path:
        from anomalib_nagl import ReferenceSet
        from anomalib_nagl.references.record import make_record, write_record

        folder = world.copy(world.references)
        path = write_record(make_record(ReferenceSet.from_folder(folder).records()), world.room)
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(changed if isinstance(changed, str) else json.dumps(content))
        return path

    return write


def _all(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Give every entry of a record this value, or take it away."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["references"]:
            entry.pop(key, None)
            if value is not ...:
                entry[key] = value

    return change


def _climbing(key: str) -> Callable[[dict[str, Any]], None]:
    """Lead to the same file by a way through the folder above."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["references"]:
            if entry.get(key):
                entry[key] = f"../{Path(content['root']).name}/{entry[key]}"

    return change


def _top(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content.pop(key, None)
        if value is not ...:
            content[key] = value

    return change


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "as it should be": (lambda _: None, ANSWER),
    "nested deeply": (lambda _: "[" * 100_000, REFUSED),
    "no JSON": (lambda _: "{", REFUSED),
    "a list": (lambda _: "[]", REFUSED),
    "null": (lambda _: "null", REFUSED),
    "a format that is a list": (_top("format", []), REFUSED),
    "no root": (_top("root", ...), REFUSED),
    "root a number": (_top("root", 5), REFUSED),
    "root null": (_top("root", None), REFUSED),
    "root of 5,000 letters": (_top("root", "r" * 5000), REFUSED),
    "root with a zero byte": (_top("root", "a\0"), REFUSED),
    "root that climbs out": (_top("root", "../" * 40 + "etc"), REFUSED),
    "references a number": (_top("references", 5), REFUSED),
    "references a list of lists": (_top("references", [[]]), REFUSED),
    "references of text": (_top("references", ["a"]), REFUSED),
    "selection a list": (_top("selection", [1]), REFUSED),
    "selection null": (_top("selection", None), REFUSED),
    "a path that climbs out": (_all("path", "../" * 40 + "etc/passwd"), REFUSED),
    "a path that climbs out to its own image": (_climbing("path"), REFUSED),
    "a mask that climbs out to its own image": (_climbing("mask_path"), REFUSED),
    "a path that is absolute": (_all("path", "/etc/passwd"), REFUSED),
    "a path that is a device": (_all("path", "/dev/zero"), REFUSED),
    **{f"{key} missing": (_all(key, ...), REFUSED) for key in ("kind", "sha256", "path")},
    "defect_type missing": (_all("defect_type", ...), REFUSED),
    **{
        f"{key} {what}": (_all(key, value), REFUSED)
        for key in ("kind", "sha256", "path", "defect_type")
        for what, value in (("a number", 5), ("null", None), ("a list", []), ("an object", {}))
    },
    "mask_sha256 missing": (_all("mask_sha256", ...), REFUSED),
    "a mask that climbs out": (_all("mask_path", "../" * 40 + "etc/passwd"), REFUSED),
    "a mask that is a number": (_all("mask_path", 5), REFUSED),
}


class Payload:
    """A pickle of it would make a file where it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch started",)


def _head(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], Path]:
    return _changed("head", "given.pt", change)


def _checkpoint(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], Path]:
    return _changed("checkpoint", "given.ckpt", change)


def _changed(kind: str, name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[World], Path]:
    """Write a changed copy of a file of the world: bytes as they are, all else as torch saves it."""

    def write(world: World) -> Path:
        import torch

        content = torch.load(getattr(world, kind), weights_only=kind == "head")
        changed = change(content)
        path = world.room / name
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            torch.save(content if changed is None else changed, path)
        return path

    return write


def _weights(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Change the first weight of a head, or of a checkpoint."""

    def apply(content: dict[str, Any]) -> None:
        state = content.get("state_dict", content)
        name = next(name for name in state if not name.startswith("model.encoder") and state[name].ndim > 1)
        state[name] = change(state[name])

    return apply


WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "NaN in a weight": lambda weight: weight.index_fill(0, weight.new_zeros(1).long(), float("nan")),
    "infinity in a weight": lambda weight: weight.index_fill(0, weight.new_zeros(1).long(), float("inf")),
    "another width": lambda weight: weight[..., :-1],
    "complex weights": lambda weight: weight + 1j,
    "weights that are integers": lambda weight: weight.long(),
    "sparse weights": lambda weight: weight.to_sparse(),
    "weights that are text": lambda _: "text",
    "weights without content": lambda weight: weight.to("meta"),
}
FILES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a pickle with a payload": lambda _: pickle.dumps(Payload()),
    "a payload in the place of a weight": lambda content: {**content, "payload": Payload()},
    "an empty file": lambda _: b"",
    "text": lambda _: b"no head",
    "the number 5": lambda _: 5,
    "a list": lambda _: [1],
    "an empty dict": lambda _: {},
    "names that are numbers": lambda content: {i: value for i, value in enumerate(content.values())},
}
LOST: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"nagl {what}": (lambda c, v=v: c.update(nagl=v)) for what, v in (("null", None), ("a list", []), ("{}", {}))},
    **{
        f"{key} {what}": (lambda c, key=key, v=v: c["nagl"].update({key: v}))
        for key in ("settings", "references", "backbone", "head_trained", "manifest")
        for what, v in (("null", None), ("a number", 5))
        if not (key in ("backbone", "manifest") and v is None)  # as a model without them is saved
    },
    "state_dict null": lambda content: content.update(state_dict=None),
    "state_dict empty": lambda content: content.update(state_dict={}),
    "an unknown backbone": lambda content: content["nagl"]["settings"].update(backbone="nobody"),
    "an image size of text": lambda content: content["nagl"]["settings"].update(image_size="large"),
    "a billion heads": lambda content: content["nagl"]["settings"].update(num_heads=10**9),
}
# What torch converts, or a switch that is read as true or false.
HARMLESS = {"weights that are integers", "head_trained null", "head_trained a number"}


def _safely(enter: Callable[[World, Path], Any]) -> Callable[[World, Path], Any]:
    """An entry point beside which nothing may have been started."""

    def run(world: World, path: Path) -> Any:
        try:
            return enter(world, path)
        finally:
            assert not (world.room / "started").exists(), "the payload was run"

    return run


def cases() -> Iterator[Case]:
    yield from _folder_cases()
    for what, (change, expected) in RECORDS.items():
        yield Case("records", what, _record(change), entries.read_record, expected)
    for what, change in FILES.items():
        yield Case("heads", what, _head(change), _safely(entries.load_head))
        yield Case("checkpoints", what, _checkpoint(change), _safely(entries.load_checkpoint), EITHER
                   if what == "a payload in the place of a weight" else REFUSED)  # fmt: skip
    for what, weight in WEIGHTS.items():
        expected = EITHER if what in HARMLESS else REFUSED
        yield Case("heads", what, _head(_weights(weight)), entries.load_head, expected)
        yield Case("checkpoints", what, _checkpoint(_weights(weight)), entries.load_checkpoint, expected)
    for what, change in LOST.items():
        yield Case("checkpoints", what, _checkpoint(change), entries.load_checkpoint,
                   EITHER if what in HARMLESS else REFUSED)  # fmt: skip
