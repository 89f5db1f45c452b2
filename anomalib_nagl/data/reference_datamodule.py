"""A datamodule around other datamodules: references of a target, training episodes of a source."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_nagl.data.episodes import EpisodeDataset, EpochSampler
from anomalib_nagl.data.selection import Choice, choose, exclude, expand_sources, find_copies, hold_out
from anomalib_nagl.data.sources import apart, category_pool, split_categories, without_target
from anomalib_nagl.data.tokens import TokenEpisodes
from anomalib_nagl.references import ReferenceSet

logger = logging.getLogger(__name__)
SAMPLINGS = ("corrected", "paper")


class ReferenceDataModule(AnomalibDataModule):
    """Draws references from a target, and training episodes from a source.

    The target is any anomalib image datamodule: ``n_normal`` references come from its train split and ``n_abnormal``,
    with masks, from its test split; they are taken out of validation and test. ``seed`` decides which ones. The source
    is one datamodule or several, each with its own category, or with those in ``source_categories`` ("all" for every
    one); a model with an untrained head learns from ``episodes`` of it per epoch. Some source categories are kept for
    ``validation_episodes``: those in ``validation_categories``, or one in five ("auto"); with a model that selects as
    published, these are categories of the target's data set, or all of them. ``sampling`` "paper" draws
    episodes by the published rule, where a query may be its own reference. Other anomalib models train on the target's
    normal images.

    Raises ValueError on counts that make no sense, when the target lacks pictures, or when it is its own source.
    """

    def __init__(
        self,
        target: AnomalibDataModule,
        source: AnomalibDataModule | list[AnomalibDataModule] | None = None,
        source_categories: list[str] | str | None = None,
        n_normal: int = 1,
        n_abnormal: int = 1,
        episodes: int = 500,
        train_batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        sampling: str = "corrected",
        validation_categories: list[str] | str | None = "auto",
        validation_episodes: int = 200,
        seed: int = 0,
    ) -> None:
        self.target = _as_datamodule(target)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=self.target.eval_batch_size if eval_batch_size is None else eval_batch_size,
            num_workers=self.target.num_workers if num_workers is None else num_workers,
            seed=seed,
        )
        if sampling not in SAMPLINGS:
            raise ValueError(f"found sampling={sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        if min(episodes, validation_episodes) < 1:
            raise ValueError(f"found {episodes} episodes and {validation_episodes} to validate on, expected at least 1")
        listed = source if isinstance(source, Sequence) else [] if source is None else [source]
        self.sources = [_as_datamodule(one) for one in listed]
        named = [source_categories] if isinstance(source_categories, str) else source_categories
        self.source_categories = None if named is None else [str(name) for name in named]
        self.n_normal, self.n_abnormal, self.episodes = n_normal, n_abnormal, episodes
        self.sampling, self.validation_episodes = sampling, validation_episodes
        self.validation_categories = validation_categories
        self.choice: Choice | None = None
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
        if self._recorded is None:
            self.choice = choose(self.target, self.n_normal, self.n_abnormal, self.seed or 0)
            hold_out(self, self.choice)
        else:
            removed = exclude(self, find_copies(self, self._recorded))
            logger.info("%d references of the checkpoint left the test set.", removed)

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
        return self.choice.load()

    def episode_datasets(self) -> tuple[EpisodeDataset, EpisodeDataset | None]:
        """Training episodes of the sources, and validation episodes of categories that are not trained on.

        Raises ValueError if there is no source.
        """
        if not self.sources:
            raise ValueError(
                "found an untrained head and no source to train it on, expected one of them: give --data.source (other "
                "parts with known defects), or a trained head with --model.head, or --data.n_abnormal 0"
            )
        if self.choice is None:
            self.setup()
        published, selected = self.sampling == "paper", getattr(self._module, "selection", "best")
        pools = [category_pool(source, published) for source in self._source_datamodules()]
        pools = without_target(pools, self.target, skip=self.source_categories == ["all"])
        if selected == "paper":  # it trains on every source category, and looks at the target (Q16)
            named = ["all"] if self.validation_categories == "auto" else self.validation_categories
            every = expand_sources([self.target], [named] if isinstance(named, str) else named, self.seed or 0)
            training, validation = pools, apart([category_pool(one, published) for one in every], pools)
        else:
            training, validation = split_categories(pools, self.validation_categories, self.seed or 0)
        logger.info("Training on %s.", ", ".join(pool.name for pool in training))
        logger.info(
            "Validating on %s.", ", ".join(pool.name for pool in validation) or "nothing: name other categories"
        )
        shots, seed = (self.n_normal, self.n_abnormal), self.seed or 0
        episodes = EpisodeDataset(training, *shots, self.episodes, (seed,), published)
        episodes.augmentations = self._model_resize()
        if not validation or selected == "last":
            return episodes, None
        held_out = EpisodeDataset(validation, *shots, self.validation_episodes, (seed, 1), published)
        held_out.augmentations = episodes.augmentations
        return episodes, held_out

    def _training_episodes(self) -> EpisodeDataset | TokenEpisodes:
        """Episodes as pictures, or as rows of a token table for a model that keeps one."""
        episodes, validation = self.episode_datasets()
        self.validation_data: EpisodeDataset | TokenEpisodes | None = validation
        resize = self._model_resize()
        if resize is None or not getattr(self._module, "uses_tokens", False):
            return episodes
        paths = sorted({*episodes.pictures(), *(validation.pictures() if validation else ())})
        self.validation_data = TokenEpisodes(validation, paths, resize) if validation else None
        return TokenEpisodes(episodes, paths, resize)

    def validation_loaders(self, epoch: int) -> dict[str, DataLoader[Any]]:
        """Validation episodes by category; the same ones after every epoch, other ones by the published rule."""
        data = getattr(self, "validation_data", None)
        if data is None:
            return {}
        episodes = data.episodes if isinstance(data, TokenEpisodes) else data
        start = epoch * len(episodes) if episodes.published else 0
        return {
            category: DataLoader(
                data, self.train_batch_size, sampler=numbers, collate_fn=getattr(data, "collate_fn", None)
            )
            for category, numbers in episodes.by_category(range(start, start + len(episodes))).items()
        }

    def _source_datamodules(self) -> list[AnomalibDataModule]:
        return expand_sources(self.sources, self.source_categories, self.seed or 0)

    def _model_resize(self) -> Resize | None:
        transform = getattr(getattr(self._module, "pre_processor", None), "transform", None)
        steps = getattr(transform, "transforms", [transform])
        return next((step for step in steps if isinstance(step, Resize)), None)

    @property
    def _module(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    @property
    def _process(self) -> tuple[int, int]:
        """Which process this is, of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _mode(self) -> str | None:
        return getattr(self._module, "reference_mode", None)

    def train_dataloader(self) -> DataLoader[Any]:
        """Episodes, or a single batch when there is nothing to train; the target's normal images for other models."""
        if self._mode is None:
            return super().train_dataloader()
        if self._mode == "references":
            one = self.train_data.subsample([0])
            return DataLoader(one, batch_size=1, collate_fn=one.collate_fn)
        dataset = self._training_episodes()
        rank, processes = self._process
        return DataLoader(
            dataset,
            batch_size=max(1, self.train_batch_size // processes),  # a step sees the same episodes on any number
            sampler=EpochSampler(len(dataset), rank, processes),
            num_workers=self.num_workers,
            collate_fn=getattr(dataset, "collate_fn", None),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation pictures of the target."""
        return self._shared(super().val_dataloader())

    def test_dataloader(self) -> DataLoader[Any]:
        """Test pictures of the target."""
        return self._shared(super().test_dataloader())

    def _shared(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Divide pictures among processes, each once: Lightning would repeat some to make the shares equal."""
        rank, processes = self._process
        if processes == 1:
            return loader
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=UnrepeatedDistributedSampler(loader.dataset, processes, rank, shuffle=False),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )


def _as_datamodule(given: AnomalibDataModule | Mapping[str, Any]) -> AnomalibDataModule:
    """A datamodule as it is, or built from the plain config that ``anomalib benchmark`` passes on."""
    if isinstance(given, AnomalibDataModule):
        return given
    if isinstance(given, Mapping):
        return get_datamodule(dict(given))
    raise TypeError(f"found {type(given).__name__} as a target or source, expected an anomalib datamodule")
