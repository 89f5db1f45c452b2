"""What a manifest and a bank say of their model: the facts that everything else is computed by."""

from __future__ import annotations

from typing import Any

from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.json_values import check_keys

_KINDS: dict[str, type | tuple[type, ...]] = {
    "backbone": str, "head": str, "grid": list, "image_size": list, "dim": int, "num_proxies": int, "context": bool,
    "shifted_grid": bool, "proxies": bool, "shared_mining": bool, "bank_limit": (int, type(None)),
}  # fmt: skip
MOST = 65_535  # places on a grid, as banks number them; other sizes are smaller
VIEWS = ("none", "turns", "all")
OLD = ("grid", "dim")  # of banks of earlier formats, whose numbers are taken for the same model alone


def check_facts(facts: object, source: object, needed: tuple[str, ...] = tuple(_KINDS)) -> dict[str, Any]:
    """Facts of a model, of which none that is ``needed`` is missing or of another type or size; EdgeError otherwise.

    ``source`` says where they stand. Facts that are not known are left alone.
    """
    what, remedy = f"facts of a model in {source}", "copy the exported folder again"
    found = check_keys(facts, {key: _KINDS[key] for key in needed}, what, remedy)
    for key in ("grid", "image_size"):
        if key in needed and not (len(found[key]) == 2 and all(map(_is_count, found[key]))):
            raise EdgeError(f"found {what} with {key} {found[key]!r}, expected two positive sides: {remedy}")
    for key in ("dim", "num_proxies"):
        if key in needed and not _is_count(found[key]):
            raise EdgeError(f"found {what} with {key} {found[key]!r}, expected a number from 1 to {MOST}: {remedy}")
    if found["grid"][0] * found["grid"][1] > MOST or found.get("bank_limit") in range(-MOST, 1):
        raise EdgeError(f"found {what} with a grid or limit that cannot be, expected those of an export: {remedy}")
    if not _are_windows(found.get("windows")):
        raise EdgeError(
            f"found {what} with windows {str(found['windows'])[:60]}, expected size, overlap and overview: {remedy}"
        )
    if found.get("views", "none") not in VIEWS:
        raise EdgeError(f"found {what} with views {found['views']!r}, expected one of {', '.join(VIEWS)}: {remedy}")
    return found


def _are_windows(value: Any) -> bool:
    """Whether these are facts of ``io.windows.Cut``; a model that sees images as a whole has none."""
    if value is None:
        return True
    if not (isinstance(value, dict) and set(value) == {"size", "overlap", "overview"}):
        return False
    size, overlap = value["size"], value["overlap"]
    sides = isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))
    return sides and type(overlap) is int and 0 <= overlap < min(size) and isinstance(value["overview"], bool)


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST
