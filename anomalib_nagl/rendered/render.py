"""Rendered categories on disk: small images of made-up products, the same for the same seed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image

from anomalib_nagl.rendered import defects, objects, textures
from anomalib_nagl.rendered.camera import photograph
from anomalib_nagl.rendered.surface import Bools, Surface

DOMAINS: dict[str, tuple[str, ...]] = {
    "textures": ("cloth", "brushed", "wood"),
    "parts": ("plate", "board", "plug"),
}
CATEGORIES: tuple[str, ...] = tuple(category for domain in DOMAINS.values() for category in domain)
DEFECTS: tuple[str, ...] = ("missing", "scratch", "spot")

RECIPE = 2  # raise it with every change that alters an image: folders of another recipe are rendered anew
COUNTS: dict[str, int] = {"train/good": 20, "test/good": 16, **{f"test/{defect}": 8 for defect in DEFECTS}}
MARKER = "drawn.json"

_PRODUCTS: dict[str, Callable[[np.random.Generator, bool], Surface]] = {
    "cloth": textures.cloth,
    "brushed": textures.brushed,
    "wood": textures.wood,
    "plate": objects.plate,
    "board": objects.board,
    "plug": objects.plug,
}
_DAMAGE: dict[str, Callable[[Surface, np.random.Generator], None]] = {
    "scratch": defects.scratch,
    "spot": defects.spot,
}


def render_category(root: Path | str, category: str, seed: int = 0) -> Path:
    """Render one category in MVTec AD layout, or keep the folder that is already there.

    A folder is kept if its marker file names the same recipe and seed, and replaced if it names others. Images are
    rendered beside the final folder, which appears only when all are done. Of several processes that ask at once, one
    renders and the others wait for it.

    Returns:
        The category's folder, `root/category`.

    Raises:
        ValueError: if there is no such category.
        FileExistsError: if the folder holds something that was not rendered here.
    """
    final = Path(root) / check_category(category)
    if _is_current(final, seed):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.parent / f".{category}.lock"):
        if not _is_current(final, seed):  # another process may have rendered it while this one waited
            _replace(final, category, seed)
    return final


def render_image(category: str, kind: str, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Render one image of kind "good" or with one of the `DEFECTS`.

    Returns:
        The image, (192, 192, 3), and the mask of its defect, (192, 192), empty for a good one.
    """
    surface = _PRODUCTS[category](rng, kind == "missing")
    if kind in _DAMAGE:
        _DAMAGE[kind](surface, rng)
    return photograph(surface, rng)


def check_category(category: str) -> str:
    """Return a category's name; ValueError if there is none of that name."""
    if category not in CATEGORIES:
        msg = f"There is no rendered category {category!r}; choose one of {', '.join(CATEGORIES)}."
        raise ValueError(msg)
    return category


def _marker(seed: int) -> bytes:
    return json.dumps({"recipe": RECIPE, "seed": seed, "pictures": COUNTS}).encode()


def _is_current(folder: Path, seed: int) -> bool:
    try:
        return (folder / MARKER).read_bytes() == _marker(seed)
    except FileNotFoundError:
        return False


def _replace(final: Path, category: str, seed: int) -> None:
    """Render beside the final folder, then swap."""
    if final.exists() and not (final / MARKER).exists():
        msg = (
            f"{final} was not rendered by anomalib-nagl (it has no {MARKER}), so it is left alone. "
            "Choose another root, or move that folder away."
        )
        raise FileExistsError(msg)
    with tempfile.TemporaryDirectory(prefix=f".{category}-", dir=final.parent) as bench:
        fresh = Path(bench) / "fresh"
        _render_all(fresh, category, seed)
        if final.exists():
            final.rename(Path(bench) / "stale")
        fresh.rename(final)


def _render_all(folder: Path, category: str, seed: int) -> None:
    for part, count in COUNTS.items():
        kind = Path(part).name
        masks = folder / "ground_truth" / kind
        for directory in (folder / part, masks) if kind in DEFECTS else (folder / part,):
            directory.mkdir(parents=True)
        for index in range(count):
            # The bytes of the name, not its hash(), which differs from one Python process to the next.
            entropy = np.random.SeedSequence([seed, *f"{category}/{part}".encode(), index])
            image, damage = render_image(category, kind, np.random.default_rng(entropy))
            _save(image, folder / part / f"{index:03}.png")
            if kind in DEFECTS:
                _save(damage.astype(np.uint8) * 255, masks / f"{index:03}_mask.png")
    (folder / MARKER).write_bytes(_marker(seed))


def _save(pixels: npt.NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path)
