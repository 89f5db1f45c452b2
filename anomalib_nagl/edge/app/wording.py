"""What was done, and what will not do, as a key with values that a page says in its own words.

A sentence in English goes with it, which a page shows where it has no words for a key. What banks and errors say is
read back from their sentences: whoever words one of them anew loses its key, and a test tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

# Steps of a draft.
STEPS: Mapping[str, str] = {
    "teach": "taught {name} ({type})",
    "fine": "a region of {name} is fine",
    "on": "switched on {name}",
    "off": "switched off {name}",
    "remove": "removed {name}",
    "rename": "renamed {name} to {new}",
    "type": "{name} is of type {new}",
    "thresholds": "threshold of images {image}, pixels {pixel}",
    "thresholds.image": "threshold of images {image}",
    "thresholds.pixel": "threshold of pixels {pixel}",
    "calibrate": "found the scales anew",
    "region": "look at {part} of the picture",
    "region.all": "look everywhere",
    "good": "{name} is good",
    "defective": "{name} is defective",
    "unmarked": "{name} without a mark",
}
# Saved changes: by what was done, how banks and steps of drafts sum it up.
_SUMMARIES: Mapping[str, Mapping[str, str]] = {
    "created": {"created": "exported with {n} references"},
    "add": {
        "add.normal": "normal {name}", "add.abnormal": "abnormal {name}", "add.region": "region {name}",
        "add.many": "{n} references",
    },
    "remove": {"remove": "{name}"}, "on": {"on": "{name}"}, "off": {"off": "{name}"},
    "rename": {"rename": "{name} to {new}"},
    "type": {"type": "{name} to {new}"},
    "mark": {key: STEPS[key] for key in ("good", "defective", "unmarked")},
    "thresholds": {
        **{key: STEPS[key] for key in ("thresholds", "thresholds.image", "thresholds.pixel")},
        "thresholds.pair": "thresholds [{image}, {pixel}]",
    },
    "calibrate": {"calibrate": "{all}"},
    "region": {
        "region.all": STEPS["region.all"], "region": STEPS["region"],
        "region.everywhere": "everywhere", "region.part": "{part} of the picture",
    },
    "load": {"load": "{n} references of a file"},
    "migrate": {"migrate.marked": "{n} references, {marked} marked images", "migrate": "{n} references"},
}  # fmt: skip
# What a page says most often when something will not do: the beginnings of sentences, wherever they come from.
_ERRORS: Mapping[str, str] = {
    "no_image": "found a file that cannot be read as an image: {name} (its content is none of {kinds}); expected",
    "damaged": "found a file that cannot be read: {name} ({why}), expected",
    "unreadable": "found no way to read {name} ({why}), expected",
    "link": "found a link that leads out of the folder: {name}, expected",
    "pixels": "found an image of {width} x {height} pixels: {name}, expected at most {most}: ",
    "bytes": "found a body of more than {most} bytes, expected",
    "gone": "found no image {image}, expected",
    "name": "found a reference named {name} already, expected",
    "name_of_other": "found a reference of that name already, expected",
    "removed": "found reference {name} removed by somebody else, expected",
    "later": "found {field} of {row} changed again since, expected",
    "undone": "found change {number} taken back already, expected",
    "no_normal": "found references without a single normal patch, expected",
    "no_reference": "found no references at all, expected",
    "empty_mask": "found an empty mask, expected",
    "region_empty": "found no normal patch of a reference in the region, expected",
    "drafts": "found {number} drafts that were not saved, expected",
    "program": "found an unexpected error ({kind}): ",
}
_UNDONE = re.compile(r"took back (\d+): ", re.DOTALL)


class Words(NamedTuple):
    """A key of ``STEPS`` and its values."""

    key: str
    values: Mapping[str, str]

    @classmethod
    def of(cls, key: str, **values: str) -> Words:
        """A step."""
        return cls(key, values)

    @property
    def text(self) -> str:
        """It in English."""
        return STEPS[self.key].format(**self.values)

    def plain(self) -> dict[str, Any]:
        """It as JSON."""
        return {"key": self.key, **self.values}


def of_change(action: str, summary: str, done: Mapping[int, tuple[str, str]]) -> dict[str, Any] | None:
    """A saved change by its action and summary, as JSON; None where a page has to show the summary as it is.

    ``done`` are action and summary of all changes by their number: an undo says what it took back.
    """
    if action == "undo":
        found = _UNDONE.match(summary)
        if found is None or (number := int(found[1][:18])) not in done:
            return None
        before, summed = done[number]
        undone = None if before == "undo" else of_change(before, summed, {})
        return {"key": "undo", "revision": number, "change": undone, "summary": summed}
    for key, template in _SUMMARIES.get(action, {}).items():
        if found := _pattern(template).fullmatch(summary):
            return {"key": key, **found.groupdict()}
    return None


def of_error(sentence: str) -> dict[str, Any] | None:
    """A sentence about what will not do, as JSON; None where a page has to show it as it is."""
    for key, template in _ERRORS.items():
        if found := _pattern(template).match(sentence):
            return {"key": key, **found.groupdict()}
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """What reads a summary back; names may be anything, numbers of things are digits."""
    parts = re.split(r"\{(\w+)\}", template)
    for place, part in enumerate(parts):
        kind = r"\d+" if part in ("n", "marked", "number", "width", "height", "most") else ".+"
        parts[place] = f"(?P<{part}>{kind})" if place % 2 else re.escape(part)
    return re.compile("".join(parts), re.DOTALL)
