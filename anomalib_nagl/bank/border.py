"""The border of a bank: what may pass it, in either direction, whoever wrote the file.

Numbers that cannot be would not stop a detector: compared with NaN, every image is good. So they are looked at where
they are read, and no more of them than is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.bank.interest import REGION, check_setting
from anomalib_nagl.bank.reference import ROLES, Lesson, Reference
from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.bank.views import cells_of
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.json_values import is_number
from anomalib_nagl.io.model_facts import MOST

# Settings, of image scores and of pixels: the thresholds on their scales, the scales, and what these were found by.
THRESHOLDS, SCALE, CALIBRATION = "thresholds", "scale", "calibration"
# Squares of larger values, summed over any width, come near the end of float32. Those of encoders are below a thousand.
LARGEST = 1e12
_REMEDY = "restore the bank from a copy, or add the image anew"


def check_tokens(tokens: NDArray[np.float32], source: object) -> None:
    """Raise EdgeError unless all patch tokens are numbers that can be computed with."""
    if not tokens.size:
        return
    # NaN is neither above nor below: one pass each, and no array of their size.
    low, high = float(tokens.min()), float(tokens.max())
    if not (low >= -LARGEST and high <= LARGEST):
        raise EdgeError(
            f"found patch tokens from {low:.6g} to {high:.6g} in {source}, expected numbers of at most {LARGEST:g}: "
            f"{_REMEDY}"
        )


def check_gains(gains: NDArray[np.float32], source: object) -> None:
    """Raise EdgeError unless gains (P,) are what a ranking gives: none negative or rising, endless the first alone."""
    if not ((gains >= 0).all() and np.isfinite(gains[1:]).all() and (gains[1:] <= gains[:-1]).all()):
        raise EdgeError(f"found gains of patches in {source} that no ranking gives, expected falling ones: {_REMEDY}")


def check_places(places: NDArray[Any], source: object, cells: int = MOST) -> None:
    """Raise EdgeError unless places (P,) are on a grid of so many cells, each once."""
    if len(places) and (int(places.min()) < 0 or int(places.max()) >= cells or len(np.unique(places)) != len(places)):
        raise EdgeError(f"found patches in {source} at places that cannot be, expected {cells} at most: {_REMEDY}")


def check_pools(one: Reference, sizes: Mapping[str, int], shifted: bool, cells: int) -> None:
    """Raise EdgeError unless a reference has the pools of its kind, with something in them.

    Windows of a ``shifted`` grid leave out the last pixels: a defect there alone marks no patch.
    """
    expected = ROLES[one.kind]
    empty = [role for role in expected if role in ("normal", "marked") and not sizes.get(role)]
    if set(sizes) != set(expected) or sum(sizes.values()) > cells or (empty and not shifted):
        found = ", ".join(f"{size} {role}" for role, size in sorted(sizes.items())) or "none"
        raise EdgeError(
            f"found {found} as patches of the {one.kind} reference {one.name!r}, expected {' and '.join(expected)} "
            f"ones, {cells} at most and at least one {expected[0]}: {_REMEDY}"
        )


def check_names(references: Iterable[Reference], taken: Collection[str] = ()) -> None:
    """Raise EdgeError where two references have one name."""
    seen = set(taken)
    for one in references:
        if one.name in seen:
            raise EdgeError(
                f"found two references of the name {one.name!r} in a bank, expected a name for each: remove or rename "
                "one of them"
            )
        seen.add(one.name)


def check_lesson(lesson: Lesson, facts: Mapping[str, Any]) -> None:
    """Raise EdgeError unless a reference fits a model of these facts and can be compared with."""
    one, cells = lesson.reference, cells_of(facts)
    check_pools(one, {role: len(pool) for role, pool in lesson.pools.items()}, bool(facts.get("shifted_grid")), cells)
    for pool in lesson.pools.values():
        tokens, places, source = pool.head(len(pool)), pool.places(len(pool)), f"reference {one.name!r}"
        if tokens.shape != (len(places), facts["dim"]):
            raise EdgeError(
                f"found patch tokens of shape {tokens.shape} in {source}, expected a width of {facts['dim']}: {_REMEDY}"
            )
        check_tokens(tokens, source)
        check_places(places, source, cells)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise EdgeError unless thresholds and scales are finite numbers and a region is one, and nothing else is set."""
    known = (THRESHOLDS, SCALE, CALIBRATION, REGION)
    if unknown := [name for name in settings if name not in known]:
        raise EdgeError(
            f"found a setting {str(unknown[0])[:60]!r} in a reference bank, expected some of {', '.join(known)}: "
            "restore the bank from a copy, or read it with the release that wrote it"
        )
    if REGION in settings:
        check_setting(settings[REGION])
    found = settings.get(THRESHOLDS, [None, None])
    if not _are_numbers(found, 2):
        raise EdgeError(
            f"found thresholds {str(found)[:60]} in a reference bank, expected two finite numbers: set them anew with "
            "set_thresholds, or restore the bank from a copy"
        )
    found = settings.get(SCALE, [[None] * 3, [None] * 3])
    if not (isinstance(found, list) and len(found) == 2 and all(_are_numbers(one, 3) for one in found)):
        raise EdgeError(
            f"found scales {str(found)[:60]} in a reference bank, expected three finite numbers each for images and "
            "pixels: find them anew with calibrate, or restore the bank from a copy"
        )
    if not isinstance(found := settings.get(CALIBRATION, {}), dict):
        raise EdgeError(
            f"found {str(found)[:60]} as the calibration in a reference bank, expected an object: find it anew with "
            "calibrate, or restore the bank from a copy"
        )


def _are_numbers(found: object, count: int) -> bool:
    usable = isinstance(found, list) and len(found) == count
    return usable and all(one is None or _is_threshold(one) for one in found)  # type: ignore[attr-defined]  # a list


def _is_threshold(value: object) -> bool:
    return is_number(value) and abs(float(value)) <= LARGEST  # type: ignore[arg-type]  # it is one


def settings_of_scale(
    scales: Sequence[Scale], calibration: Mapping[str, Any], thresholds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Scales of images and pixels as settings, and the thresholds on them where they are given."""
    found: dict[str, Any] = {SCALE: [_given(scale) for scale in scales], CALIBRATION: dict(calibration)}
    return found if thresholds is None else {THRESHOLDS: _given(thresholds), **found}


def scales_of(settings: Mapping[str, Any]) -> tuple[Scale, Scale]:
    """Scales of images and pixels, NaN where there is none."""
    image, pixel = (
        Scale(*(math.nan if value is None else float(value) for value in one))
        for one in settings.get(SCALE, [[None] * 3, [None] * 3])
    )
    return image, pixel


def _given(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
