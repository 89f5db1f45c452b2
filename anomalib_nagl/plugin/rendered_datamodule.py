"""anomalib's view of rendered categories: two small domains that need no download."""

from __future__ import annotations

from pathlib import Path

from anomalib.data.datamodules.image.mvtecad import MVTecAD
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_nagl.rendered.render import CATEGORIES, check_category, render_category

__all__ = ["CATEGORIES", "DrawnPictures", "DrawnPicturesDataset"]  # anomalib's modules list their categories too


class DrawnPicturesDataset(MVTecADDataset):
    """One split of one rendered category, read from its folder in MVTec AD layout."""


class DrawnPictures(MVTecAD):
    """Rendered categories with pixel masks, in MVTec AD layout below a root of their own.

    Preparing or setting up renders the category if its folder is not there yet, which takes a few seconds. The seed
    decides both the images and the splits; a root holds the images of one seed at a time. All other arguments
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
        self.rendering_seed = seed

    @property
    def category(self) -> str:
        """The category rendered; assigning another one takes effect at the next `setup`."""
        return self._category

    @category.setter
    def category(self, category: str) -> None:
        self._category = check_category(category)
        self._is_setup = False  # else a copy of a datamodule that a trainer has used would keep its old images

    def prepare_data(self) -> None:
        """Render the category unless its folder is there, rendered by the same recipe and seed."""
        render_category(self.root, self.category, self.rendering_seed)

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # `setup` alone is enough, as for a data set that has been downloaded before
        self.train_data = DrawnPicturesDataset(self.root, self.category, split=Split.TRAIN)
        self.test_data = DrawnPicturesDataset(self.root, self.category, split=Split.TEST)
