"""The source side of a datamodule: training episodes, validation episodes, and their loaders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_nagl.plugin.datasets import expand_sources
from anomalib_nagl.plugin.episodes import EpisodeDataset, EpochSampler
from anomalib_nagl.plugin.sources import apart, category_pool, split_categories, without_target
from anomalib_nagl.plugin.token_cache import TokenEpisodes

logger = logging.getLogger(__name__)
SAMPLINGS = ("corrected", "paper")


class EpisodeSource(AnomalibDataModule):
    """The part of ``ReferenceDataModule`` that a head is trained on; the target only says what must not be in it."""

    target: AnomalibDataModule
    n_normal: int
    n_abnormal: int

    def take_source(
        self,
        source: AnomalibDataModule | Sequence[AnomalibDataModule] | None,
        categories: Sequence[str] | str | None,
        episodes: int,
        sampling: str,
        validation_categories: Sequence[str] | str | None,
        validation_episodes: int,
    ) -> None:
        """Note what to learn from; ValueError on settings that make no sense."""
        if sampling not in SAMPLINGS:
            raise ValueError(f"found sampling={sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        if min(episodes, validation_episodes) < 1:
            raise ValueError(f"found {episodes} episodes and {validation_episodes} to validate on, expected at least 1")
        listed = source if isinstance(source, Sequence) else [] if source is None else [source]
        self.sources = [as_datamodule(one) for one in listed]
        named = [categories] if isinstance(categories, str) else categories
        self.source_categories = None if named is None else [str(name) for name in named]
        self.episodes, self.sampling, self.validation_episodes = episodes, sampling, validation_episodes
        self.validation_categories = validation_categories
        self.validation_data: EpisodeDataset | TokenEpisodes | None = None

    def episode_datasets(self) -> tuple[EpisodeDataset, EpisodeDataset | None]:
        """Training episodes of the sources, and validation episodes of categories that are not trained on.

        Raises ValueError if there is no source.
        """
        if not self.sources:
            raise ValueError(
                "found an untrained head and no source to train it on, expected one of them: give --data.source (other "
                "parts with known defects), or a trained head with --model.head, or --data.n_abnormal 0"
            )
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
        self.validation_data = validation
        resize = self._model_resize()
        if resize is None or not getattr(self._module, "uses_tokens", False):
            return episodes
        paths = sorted({*episodes.pictures(), *(validation.pictures() if validation else ())})
        self.validation_data = TokenEpisodes(validation, paths, resize) if validation else None
        return TokenEpisodes(episodes, paths, resize)

    def validation_loaders(self, epoch: int) -> dict[str, DataLoader[Any]]:
        """Validation episodes by category; the same ones after every epoch, other ones by the published rule."""
        data = self.validation_data
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

    def episode_loader(self) -> DataLoader[Any]:
        """Batches of training episodes; of several processes each has its share of every batch."""
        dataset = self._training_episodes()
        rank, processes = self._process
        return DataLoader(
            dataset,
            batch_size=max(1, self.train_batch_size // processes),  # a step sees the same episodes on any number
            sampler=EpochSampler(len(dataset), rank, processes),
            num_workers=self.num_workers,
            collate_fn=getattr(dataset, "collate_fn", None),
        )

    def shared(self, loader: DataLoader[Any]) -> DataLoader[Any]:
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


def as_datamodule(given: AnomalibDataModule | Mapping[str, Any]) -> AnomalibDataModule:
    """A datamodule as it is, or built from the plain config that ``anomalib benchmark`` passes on."""
    if isinstance(given, AnomalibDataModule):
        return given
    if isinstance(given, Mapping):
        return get_datamodule(dict(given))
    raise TypeError(f"found {type(given).__name__} as a target or source, expected an anomalib datamodule")
