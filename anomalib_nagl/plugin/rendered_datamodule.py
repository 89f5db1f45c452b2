"""Two small picture domains that need no download: every picture is drawn here, by the same hand for the same seed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from anomalib.data.datamodules.image.mvtecad import MVTecAD
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from filelock import FileLock
from PIL import Image
from torchvision.transforms.v2 import Transform

from anomalib_nagl.rendered import defects, objects, textures
from anomalib_nagl.rendered.camera import photograph
from anomalib_nagl.rendered.surface import Bools, Surface

DOMAINS: dict[str, tuple[str, ...]] = {
    "textures": ("cloth", "brushed", "wood"),
    "parts": ("plate", "board", "plug"),
}
CATEGORIES: tuple[str, ...] = tuple(category for domain in DOMAINS.values() for category in domain)
DEFECTS: tuple[str, ...] = ("missing", "scratch", "spot")

RECIPE = 1  # raise it with every change that alters a picture: folders drawn by another recipe are drawn anew
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


class DrawnPicturesDataset(MVTecADDataset):
    """One split of one drawn category, read from its folder in MVTec AD layout."""


class DrawnPictures(MVTecAD):
    """Drawn categories with pixel masks, in MVTec AD layout below a root of their own.

    Preparing or setting up draws the category if its folder is not there yet, which takes a few seconds. The seed
    decides both the pictures and the splits; a root holds the pictures of one seed at a time. All other arguments
    are those of `MVTecAD`.

    Raises:
        ValueError: if there is no such category.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/drawn",
        category: str = "cloth",
        seed: int = 0,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
    ) -> None:
        super().__init__(
            root=root,
            category=category,
            seed=seed,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
        )
        self.drawing_seed = seed

    @property
    def category(self) -> str:
        """The category drawn; assigning another one takes effect at the next `setup`."""
        return self._category

    @category.setter
    def category(self, category: str) -> None:
        self._category = _known(category)
        self._is_setup = False  # else a copy of a datamodule that a trainer has used would keep its old pictures

    def prepare_data(self) -> None:
        """Draw the category unless its folder is there, drawn by the same recipe and seed."""
        draw_category(self.root, self.category, self.drawing_seed)

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # `setup` alone is enough, as for a data set that has been downloaded before
        self.train_data = DrawnPicturesDataset(self.root, self.category, split=Split.TRAIN)
        self.test_data = DrawnPicturesDataset(self.root, self.category, split=Split.TEST)


def draw_category(root: Path | str, category: str, seed: int = 0) -> Path:
    """Draw one category in MVTec AD layout, or keep the folder that is already there.

    A folder is kept if its marker file names the same recipe and seed, and replaced if it names others. Pictures are
    drawn beside the final folder, which appears only when all are done. Of several processes that ask at once, one
    draws and the others wait for it.

    Returns:
        The category's folder, `root/category`.

    Raises:
        ValueError: if there is no such category.
        FileExistsError: if the folder holds something that was not drawn here.
    """
    final = Path(root) / _known(category)
    if _is_current(final, seed):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.parent / f".{category}.lock"):
        if not _is_current(final, seed):  # another process may have drawn it while this one waited
            _replace(final, category, seed)
    return final


def draw_picture(category: str, kind: str, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Bools]:
    """Draw one picture of kind "good" or with one of the `DEFECTS`.

    Returns:
        The picture, (192, 192, 3), and the mask of its defect, (192, 192), which is empty for a good one.
    """
    surface = _PRODUCTS[category](rng, kind == "missing")
    if kind in _DAMAGE:
        _DAMAGE[kind](surface, rng)
    return photograph(surface, rng)


def _known(category: str) -> str:
    if category not in CATEGORIES:
        msg = f"There is no drawn category {category!r}; choose one of {', '.join(CATEGORIES)}."
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
    """Draw beside the final folder, then swap."""
    if final.exists() and not (final / MARKER).exists():
        msg = (
            f"{final} was not drawn by anomalib-nagl (it has no {MARKER}), so it is left alone. "
            "Choose another root, or move that folder away."
        )
        raise FileExistsError(msg)
    with tempfile.TemporaryDirectory(prefix=f".{category}-", dir=final.parent) as bench:
        fresh = Path(bench) / "fresh"
        _draw_all(fresh, category, seed)
        if final.exists():
            final.rename(Path(bench) / "stale")
        fresh.rename(final)


def _draw_all(folder: Path, category: str, seed: int) -> None:
    for part, count in COUNTS.items():
        kind = Path(part).name
        masks = folder / "ground_truth" / kind
        for directory in (folder / part, masks) if kind in DEFECTS else (folder / part,):
            directory.mkdir(parents=True)
        for index in range(count):
            # The bytes of the name, not its hash(), which differs from one Python process to the next.
            entropy = np.random.SeedSequence([seed, *f"{category}/{part}".encode(), index])
            picture, damage = draw_picture(category, kind, np.random.default_rng(entropy))
            _save(picture, folder / part / f"{index:03}.png")
            if kind in DEFECTS:
                _save(damage.astype(np.uint8) * 255, masks / f"{index:03}_mask.png")
    (folder / MARKER).write_bytes(_marker(seed))


def _save(pixels: npt.NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path)
