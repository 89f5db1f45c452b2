"""A datamodule around other datamodules: references of a target, training episodes of a source."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils import LabelName
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize, Transform

from anomalib_nagl.data.episodes import EpisodeDataset, EpochSampler, Pool
from anomalib_nagl.data.plan import ReferencePlan
from anomalib_nagl.data.reading import PictureFolder, read_alike
from anomalib_nagl.data.selection import (
    Choice,
    describe,
    exclude,
    expand_sources,
    find_copies,
    hold_out,
    resolved,
    samples,
)
from anomalib_nagl.data.tokens import TokenEpisodes
from anomalib_nagl.references import ReferenceSet

logger = logging.getLogger(__name__)
SAMPLINGS = ("corrected", "paper")


class ReferenceDataModule(AnomalibDataModule):
    """Takes references from a folder or draws them from a target, and draws training episodes from a source.

    ``references`` is a folder of pictures (``folders.scan``) or the ``references.json`` of an earlier run; without it
    they are drawn from the target, any anomalib image datamodule: ``n_normal`` from its train split, ``n_abnormal``
    from its test split (one each unless said otherwise; of a folder all). ``seed`` decides which ones. References and
    copies of them are taken out of validation and test. ``masks`` is read as in ``ReferenceSet.from_folder``;
    ``synthetic_abnormal`` more references are made of the normal ones (``synthetic.with_synthetic``). With
    ``references``, ``pictures`` to inspect, a folder or a file, may stand in for the target. The source
    is one datamodule or several, each with its own category, or with those in ``source_categories`` ("all" for every
    one); a model with an untrained head learns from ``episodes`` of it per epoch. ``sampling`` "paper" draws episodes
    by the published rule, where a query may be its own reference. Other anomalib models train on the target's normal
    images.

    Raises ValueError on counts that make no sense, when the target lacks pictures, or when it is its own source.
    """

    def __init__(
        self,
        target: AnomalibDataModule | None = None,
        source: AnomalibDataModule | list[AnomalibDataModule] | None = None,
        source_categories: list[str] | str | None = None,
        n_normal: int | None = None,
        n_abnormal: int | None = None,
        episodes: int = 500,
        train_batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        sampling: str = "corrected",
        seed: int = 0,
        references: str | None = None,
        pictures: str | None = None,
        masks: str = "auto",
        synthetic_abnormal: int = 0,
        synthetic: str = "cut_paste",
    ) -> None:
        self.plan = ReferencePlan.make(
            references,
            n_normal=n_normal,
            n_abnormal=n_abnormal,
            seed=seed,
            masks=masks,
            synthetic_abnormal=synthetic_abnormal,
            synthetic=synthetic,
        )
        self.target = _as_target(target, pictures, self.plan)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=self.target.eval_batch_size if eval_batch_size is None else eval_batch_size,
            num_workers=self.target.num_workers if num_workers is None else num_workers,
            seed=seed,
        )
        if sampling not in SAMPLINGS:
            raise ValueError(f"found sampling={sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        if episodes < 1:
            raise ValueError(f"found episodes={episodes}, expected at least 1 in an epoch")
        listed = source if isinstance(source, Sequence) else [] if source is None else [source]
        self.sources = [_as_datamodule(one) for one in listed]
        named = [source_categories] if isinstance(source_categories, str) else source_categories
        self.source_categories = None if named is None else [str(name) for name in named]
        # How many references an episode has; a head that will see synthetic ones only learns with real ones.
        self.n_normal = 1 if n_normal is None else n_normal
        self.n_abnormal = max(1 if n_abnormal is None else n_abnormal, min(synthetic_abnormal, 1))
        self.episodes, self.sampling = episodes, sampling
        self.choice: Choice | None = None
        self.removed = 0
        self._recorded: list[Mapping[str, str]] | None = None
        if self.target.seed is None:
            self.target.seed = seed  # random splits of the target must not differ between processes

    @property
    def name(self) -> str:  # type: ignore[override]  # anomalib's is read-only too
        """Name of the target: results are filed under it."""
        return self.target.name

    @property
    def category(self) -> str:
        """Category of the target."""
        return self.target.category

    @category.setter
    def category(self, category: str) -> None:
        self.target.category = category

    def prepare_data(self) -> None:
        """Let the target, and the sources when a head is trained, fetch what they need."""
        self.target.prepare_data()
        if self._mode == "episodes":
            for source in self._source_datamodules():
                source.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        self.target.setup(_stage)
        for split in ("train", "val", "test"):
            setattr(self, f"{split}_augmentations", getattr(self.target, f"{split}_augmentations"))
        # Copies: what leaves the sets here stays in the target, so that the choice can be made anew.
        self.train_data, self.test_data = copy.deepcopy(self.target.train_data), copy.deepcopy(self.target.test_data)
        self.val_data = copy.deepcopy(getattr(self.target, "val_data", self.target.test_data))
        read_alike(self)
        if self._recorded is None:
            self.choice = self.plan.choose(self.target)
            self.removed = hold_out(self, self.choice)
        else:
            self.removed = exclude(self, find_copies(self, self._recorded))
            logger.info("%d references of the checkpoint left the test set.", self.removed)
        if isinstance(self.target, PictureFolder):
            self.val_data = copy.deepcopy(self.target.val_data)  # the references themselves

    def use_recorded(self, records: Sequence[Mapping[str, str]]) -> None:
        """Leave out the references of a checkpoint, instead of choosing others, from the next ``setup`` on."""
        self._recorded, self.choice, self._is_setup = list(records), None, False

    def _create_test_split(self) -> None:
        """The target has split already."""

    def _create_val_split(self) -> None:
        """The target has split already."""

    def reference_set(self) -> ReferenceSet:
        """Read the chosen references; ValueError names the first file that will not do."""
        if self.choice is None:
            self.setup()
        if self.choice is None:
            raise RuntimeError("found no choice of references after setup(), expected one: report this as a bug")
        return self.plan.load(self.choice)

    def episode_dataset(self) -> EpisodeDataset:
        """Training episodes of the sources; ValueError if there is no source."""
        if not self.sources:
            raise ValueError(
                "found an untrained head and no source to train it on, expected one of them: give --data.source (other "
                "parts with known defects), or a trained head with --model.head, or --data.n_abnormal 0"
            )
        if self.choice is None:
            self.setup()
        splits = [getattr(self.target, f"{name}_data", None) for name in ("train", "val", "test")]
        own = resolved(path for split in splits if split is not None for path in split.samples.image_path)
        pools = []
        for source in self._source_datamodules():
            source.setup()
            pool = self._pool(source)
            if not own & resolved(sample.image for sample in pool.samples):
                pools.append(pool)
            elif self.source_categories != ["all"]:
                raise ValueError(
                    f"found pictures of the target {describe(self)} among the sources ({pool.name}), expected others: "
                    "a head must not be trained on what it is tested on"
                )
        if not pools:
            raise ValueError("found no source category besides the target, expected at least one: name another source")
        logger.info("Training on %s.", ", ".join(pool.name for pool in pools))
        dataset = EpisodeDataset(
            pools, self.n_normal, self.n_abnormal, self.episodes, self.seed or 0, self.sampling == "paper"
        )
        dataset.augmentations = self._model_resize()
        return dataset

    def _training_episodes(self) -> EpisodeDataset | TokenEpisodes:
        """Episodes as pictures, or as rows of a token table for a model that keeps one."""
        episodes, resize = self.episode_dataset(), self._model_resize()
        if resize is None or not getattr(self._module, "uses_tokens", False):
            return episodes
        height, width = resize.size
        return TokenEpisodes(episodes, (height, width), resize)

    def _pool(self, source: AnomalibDataModule) -> Pool:
        """Pictures of a source category; by the published rule normal references come from its test split (Q15)."""
        splits = [source.test_data]
        if self.sampling != "paper" and not isinstance(getattr(source, "val_data", None), SyntheticAnomalyDataset):
            splits += [source.val_data] if hasattr(source, "val_data") else []
        tested, abnormal = (
            tuple(dict.fromkeys(sample for split in splits for sample in samples(split, label)))
            for label in (LabelName.NORMAL, LabelName.ABNORMAL)
        )
        trained = tested if self.sampling == "paper" else tuple(samples(source.train_data, LabelName.NORMAL))
        return Pool(describe(source), trained, tested, abnormal)

    def _source_datamodules(self) -> list[AnomalibDataModule]:
        return expand_sources(self.sources, self.source_categories, self.seed or 0)

    def _model_resize(self) -> Transform | None:
        transform = getattr(getattr(self._module, "pre_processor", None), "transform", None)
        steps = getattr(transform, "transforms", [transform])
        return next((step for step in steps if isinstance(step, Resize)), None)

    @property
    def _module(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    @property
    def _mode(self) -> str | None:
        return getattr(self._module, "reference_mode", None)

    def val_dataloader(self) -> Any:
        """The target's validation pictures; a single one where none is needed, for references are taken then."""
        if self._mode is None or getattr(self._module, "needs_validation", True):
            return super().val_dataloader()
        one = self.val_data.subsample([0])
        return DataLoader(one, batch_size=1, collate_fn=one.collate_fn)

    def test_dataloader(self) -> Any:
        """The target's test pictures that are no references; nothing when there are only pictures without labels."""
        if isinstance(self.target, PictureFolder):
            logger.info("Nothing to test: the pictures have no labels. `anomalib predict` scores them.")
            return []
        return super().test_dataloader()

    def predict_dataloader(self) -> Any:
        """The pictures to inspect, or the target's test pictures."""
        return super().test_dataloader()

    def train_dataloader(self) -> DataLoader[Any]:
        """Episodes, or a single batch when there is nothing to train; the target's normal images for other models."""
        if self._mode is None:
            return super().train_dataloader()
        if self._mode == "references":
            one = self.train_data.subsample([0])
            return DataLoader(one, batch_size=1, collate_fn=one.collate_fn)
        dataset = self._training_episodes()
        return DataLoader(
            dataset,
            batch_size=self.train_batch_size,
            sampler=EpochSampler(len(dataset), lambda: self.trainer.current_epoch if self.trainer else 0),
            num_workers=self.num_workers,
            collate_fn=getattr(dataset, "collate_fn", None),
        )


def _as_target(
    given: AnomalibDataModule | Mapping[str, Any] | None, pictures: str | None, plan: ReferencePlan
) -> AnomalibDataModule:
    """The target, or the pictures that stand in for it."""
    if given is None and pictures is None and plan.files is None:
        raise ValueError(
            "found neither a target nor references of its own, expected one of them: give --data.target (any anomalib "
            "datamodule), or --data.references (a folder) and --data.pictures"
        )
    if given is not None:
        if pictures is not None:
            raise ValueError("found both a target and pictures, expected one of them to inspect: leave one out")
        return _as_datamodule(given)
    known: list[str] = []
    if plan.files is not None:
        known = list(plan.files.normal) or [file.image for file in plan.files.abnormal]
    return PictureFolder(pictures, known)


def _as_datamodule(given: AnomalibDataModule | Mapping[str, Any]) -> AnomalibDataModule:
    """A datamodule as it is, or built from the plain config that ``anomalib benchmark`` passes on."""
    if isinstance(given, AnomalibDataModule):
        return given
    if isinstance(given, Mapping):
        return get_datamodule(dict(given))
    raise TypeError(f"found {type(given).__name__} as a target or source, expected an anomalib datamodule")
