"""``anomalib-nagl edge``: what a reference bank knows, what it is taught, and what is taken back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib_nagl.commands.edge_check import check, confirm, try_lesson
from anomalib_nagl.commands.parser import Parser
from anomalib_nagl.edge.detector import NaglEdge
from anomalib_nagl.edge.migration import migrate
from anomalib_nagl.io.errors import EdgeError

COMMANDS = (
    ("list", "list the references of a model"),
    ("add-defect", "learn a defect from an image"),
    ("add-normal", "learn from an image, or from a region of one, what is normal"),
    ("check", "score images that are known to be good or defective"),
    ("remove", "forget a reference"),
    ("rename", "give a reference another name"),
    ("off", "compare without a reference, and keep it"),
    ("on", "compare with a reference again"),
    ("calibrate", "find the scales of scores anew from the references"),
    ("set-threshold", "call images defective above another score than 0.5"),
    ("region", "say where on every image to look, or look everywhere again"),
    ("undo", "take back a change: the last one of yours, or that of a number"),
    ("history", "list all changes of the references"),
    ("bake", "write what was taught into a file for any OpenVINO program"),
    ("migrate", "take over what was taught to another model, or to an earlier version"),
)


def describe(parsers: Sequence[Parser]) -> None:
    """Give the parsers of ``COMMANDS`` their arguments."""
    named = dict(zip((name for name, _ in COMMANDS), parsers, strict=True))
    runs = (
        show,
        add_defect,
        add_normal,
        check,
        remove,
        rename,
        switch_off,
        switch_on,
        calibrate,
        set_threshold,
        set_region,
        undo,
        history,
        bake,
        take_over,
    )
    for (name, parser), run in zip(named.items(), runs, strict=True):
        parser.set_defaults(run=run)
        if name == "migrate":
            parser.add_argument("old", type=Path, metavar="OLD_BANK", help="bank to take over")
        parser.add_argument("model", type=Path, metavar="MODEL", help="model.xml of an export")
        parser.add_argument("--bank", type=Path, metavar="FILE", help="another reference bank than NAME.bank")
        if name not in ("list", "history", "bake", "check"):
            parser.add_argument("--by", metavar="NAME", help="who makes the change, your user name if left out")
    named["bake"].add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="the .xml to write")
    named["check"].add_argument(
        "labelled", type=Path, metavar="LABELLED_DIR", help="folder with good/ and defects/, or normal/ and abnormal/"
    )
    for name in ("remove", "rename", "off", "on"):
        _either(named[name], "name", "name of the reference, see list", str)
    _either(named["rename"], "to", "its new name", str)
    _either(named["undo"], "revision", "number of a change, see history", int)
    _describe_lessons(named)
    _describe_settings(named)


def _describe_lessons(named: Mapping[str, Parser]) -> None:
    for name in ("add-defect", "add-normal"):
        _either(named[name], "image", "image file", Path)
        named[name].add_argument("--name", help="name of the reference, that of the file if left out")
        named[name].add_argument("--no-image", action="store_true", help="do not keep the image in the bank")
        named[name].add_argument(
            "--check",
            type=Path,
            metavar="LABELLED_DIR",
            help="score its good/ and defects/ before and after, and compare",
        )
        named[name].add_argument("--yes", action="store_true", help="keep the lesson without being asked")
    named["add-defect"].add_argument(
        "--mask", type=Path, metavar="FILE", help="white on the defect; without it the most deviating patches count"
    )
    named["add-defect"].add_argument("--type", default="defect", help="defect type")
    named["add-normal"].add_argument(
        "--region", type=Path, metavar="FILE", help="white where the image is normal; without it all of it is"
    )


def _describe_settings(named: Mapping[str, Parser]) -> None:
    setting = named["set-threshold"]
    setting.add_argument("image", nargs="?", type=float, metavar="SCORE", help="from 0 to 1, as 0.6, for images")
    setting.add_argument("--pixel", type=float, metavar="SCORE", help="from 0 to 1, for the outline of a defect")
    setting.add_argument("--yes", action="store_true", help="even outside the scores that references had")
    named["region"].add_argument("mask", nargs="?", type=Path, metavar="MASK", help="image, white where to look")
    named["region"].add_argument("--clear", action="store_true", help="look everywhere again")
    named["region"].add_argument("--calibrate", action="store_true", help="find the scales anew within the region")


def _either(parser: Parser, name: str, about: str, kind: Callable[[str], Any]) -> None:
    """Let an argument be given in its place or by its name."""
    parser.add_argument(f"{name}_", nargs="?", type=kind, metavar=name.upper(), help=about)
    parser.add_argument(f"--{name}", type=kind, metavar=name.upper(), help=argparse.SUPPRESS)


def _given(options: argparse.Namespace, name: str) -> Any:
    """What was given in either way; EdgeError without one."""
    placed, called = getattr(options, f"{name}_"), getattr(options, name)
    if placed is not None and called is not None:
        raise EdgeError(f"found {placed} and --{name} {called}, expected one of them")
    if placed is None and called is None:
        raise EdgeError(f"found no {name}, expected {name.upper()} behind the model; see --help")
    return called if placed is None else placed


def show(options: argparse.Namespace) -> None:
    """List the references."""
    print("\t".join(("kind", "name", "type", "active", "added", "by", "sha256")))
    for one in _detector(options).references:
        active = "yes" if one.active else "no"
        print("\t".join((one.kind, one.name, one.defect_type, active, one.added, one.author, one.sha256[:12])))


def add_defect(options: argparse.Namespace) -> None:
    """Learn a defect."""
    image: Path = _given(options, "image")
    detector, name = _detector(options), options.name or image.stem
    if options.mask is not None:
        _question(options.mask, image, options.yes)
    _teach(detector, options, lambda one, kept: one.add_abnormal(image, options.mask, name, options.type, kept))
    _tell(detector, f"learnt {name}")


def add_normal(options: argparse.Namespace) -> None:
    """Learn what is normal."""
    image: Path = _given(options, "image")
    detector, name = _detector(options), options.name or image.stem
    if options.region is not None:
        _question(options.region, image, options.yes, whole=False)
    _teach(detector, options, lambda one, kept: one.add_normal(image, name, options.region, kept))
    _tell(detector, f"learnt {name}")


def _question(mask: Path, image: Path, yes: bool, whole: bool = True) -> None:
    """Ask whether to go on with a mask that is probably none."""
    # Imported late: it needs Pillow, which a box that is taught arrays may do without.
    from anomalib_nagl.io.mask_doubts import doubts

    confirm(doubts(mask, image, whole), yes)


def _teach(detector: NaglEdge, options: argparse.Namespace, lesson: Callable[[NaglEdge, bool], None]) -> None:
    """Give a lesson, which keeps the image or not; to a copy first where it is to be checked."""
    if options.check is not None:
        try_lesson(detector, options.check, lambda copy: lesson(copy, False), options.model, options.yes)
    lesson(detector, not options.no_image)


def remove(options: argparse.Namespace) -> None:
    """Forget a reference."""
    detector, name = _detector(options), _given(options, "name")
    detector.remove(name)
    _tell(detector, f"forgot {name}")


def rename(options: argparse.Namespace) -> None:
    """Give a reference another name."""
    detector, name, new = _detector(options), _given(options, "name"), _given(options, "to")
    detector.rename(name, new)
    _tell(detector, f"{name} is {new} now")


def switch_off(options: argparse.Namespace) -> None:
    """Leave a reference out."""
    _switch(options, False)


def switch_on(options: argparse.Namespace) -> None:
    """Compare with a reference again."""
    _switch(options, True)


def _switch(options: argparse.Namespace, active: bool) -> None:
    detector, name = _detector(options), _given(options, "name")
    detector.switch(name, active)
    _tell(detector, f"{name} is {'on' if active else 'off'}")


def calibrate(options: argparse.Namespace) -> None:
    """Find both scales anew."""
    detector = _detector(options)
    before, found = detector.scales, detector.calibrate()
    for name, old, new in zip(before._fields, before, detector.scales, strict=True):
        print(f"raw threshold of {name}, shown as 0.5: {old.raw_threshold:.6f} is {new.raw_threshold:.6f} now")
    if found.overlap:
        print(
            "normal references scored as high as defective ones when they were not known: the threshold is uncertain; "
            "show more of both"
        )
    _tell(detector, f"found the scales from the references; {_thresholds(detector)} as before")


def set_threshold(options: argparse.Namespace) -> None:
    """Decide elsewhere on the scale."""
    detector = _detector(options)
    if options.image is None and options.pixel is None:
        raise EdgeError("found no threshold, expected SCORE behind the model, --pixel SCORE, or both: give 0.6")
    doubts = detector.doubt(options.image, options.pixel)
    if doubts and not options.yes:
        raise EdgeError(f"{doubts[0]}; add --yes if that is meant")
    detector.set_thresholds(options.image, options.pixel)
    _tell(detector, _thresholds(detector))


def set_region(options: argparse.Namespace) -> None:
    """Look at a part of every image alone."""
    if (options.mask is None) != options.clear:
        found = "a mask and --clear" if options.clear else "no mask"
        raise EdgeError(f"found {found}, expected MASK behind the model, or --clear to look everywhere")
    detector = _detector(options)
    detector.set_region(options.mask)
    if options.calibrate:
        detector.calibrate()
    region = detector.region
    looked = "everywhere" if region is None else f"at {region.mean():.0%} of every image, always at the same place"
    scales = "found the scales anew" if options.calibrate else "scales are as before, edge calibrate finds them anew"
    _tell(detector, f"looks {looked}; {scales}")


def _thresholds(detector: NaglEdge) -> str:
    image, pixel = detector.thresholds
    return f"the threshold of images is {image:g}, that of pixels {pixel:g}"


def undo(options: argparse.Namespace) -> None:
    """Take back a change."""
    detector = _detector(options)
    change = detector.undo(options.revision_ if options.revision is None else options.revision)
    _tell(detector, f"took back change {change.revision} of {change.author}: {change.action} {change.summary}")


def history(options: argparse.Namespace) -> None:
    """List all changes."""
    print("\t".join(("number", "time", "by", "change", "about", "takes back")))
    for one in _detector(options).history():
        undoes = "" if one.undoes is None else str(one.undoes)
        print("\t".join((str(one.revision), one.at, one.author, one.action, one.summary, undoes)))


def bake(options: argparse.Namespace) -> None:
    """Write what was taught into a file for any program."""
    detector = _detector(options)
    _tell(detector, f"wrote {detector.bake(options.out)}")


def take_over(options: argparse.Namespace) -> None:
    """Take over the references of another bank."""
    detector = _detector(options)
    done = migrate(options.old, detector)
    for line in done.differences:
        print(f"changed: {line}")
    for what, names in (
        ("encoded anew", done.encoded), ("copied", done.copied), ("there already", done.present),
        ("of the acceptance set, taken along", done.marked),
        ("of the acceptance set, marked otherwise here and left so", done.disputed),
    ):  # fmt: skip
        if names:
            print(f"{what}: {', '.join(names)}")
    if done.encoded:
        print("scales and thresholds are those of the new model: edge calibrate finds the scales anew")
    _tell(detector, f"took over {len(done.encoded) + len(done.copied)} references of {options.old}")


def _detector(options: argparse.Namespace) -> NaglEdge:
    check_model(options.model)
    return NaglEdge(options.model, bank=options.bank, author=getattr(options, "by", None))


def _tell(detector: NaglEdge, done: str) -> None:
    active = sum(one.active for one in detector.references)
    print(f"{done}; {active} references are compared with: {detector.bank}")


def check_model(path: Path) -> None:
    """Raise EdgeError unless this is the file of an exported model."""
    if path.suffix != ".xml" or not path.is_file():
        found = "a folder" if path.is_dir() else "another file" if path.is_file() else "nothing"
        raise EdgeError(f"found {found} at {path}, expected the model.xml of an export: check the path")
