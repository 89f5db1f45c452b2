"""The source side of a datamodule: what a head is trained on, and what it is judged by after every epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule
from torch.utils.data import DataLoader, Dataset

from anomalib_nagl.core.variants import HEAD_FREE
from anomalib_nagl.plugin.copied_ahead import EpisodeLoader
from anomalib_nagl.plugin.datasets import expand_sources
from anomalib_nagl.plugin.episodes import EpisodeDataset, EpochSampler, Pool
from anomalib_nagl.plugin.fit_plan import FitPlan
from anomalib_nagl.plugin.sources import apart, as_steady, category_pool, check_masks, split_categories, without_target
from anomalib_nagl.plugin.token_cache import TokenEpisodes

logger = logging.getLogger(__name__)
SAMPLINGS = ("corrected", "paper")


@dataclass(frozen=True)
class EpisodeSource:
    """Categories to learn from, and how episodes are drawn from them; see ``ReferenceDataModule`` for each setting.

    An episode has as many normal and abnormal references as ``shots`` say. Raises ValueError on settings that make no
    sense.
    """

    datamodules: tuple[AnomalibDataModule, ...]
    categories: tuple[str, ...] | None
    shots: tuple[int, int]
    episodes: int
    sampling: str
    validation_categories: Sequence[str] | str | None
    validation_episodes: int
    seed: int

    def __post_init__(self) -> None:
        """Check names and counts."""
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"found sampling={self.sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        counts = self.episodes, self.validation_episodes
        if min(counts) < 1:
            raise ValueError(f"found {counts[0]} episodes and {counts[1]} to validate on, expected at least 1")

    @classmethod
    def make(
        cls,
        source: AnomalibDataModule | Sequence[AnomalibDataModule] | None,
        categories: Sequence[str] | str | None,
        **settings: Any,
    ) -> EpisodeSource:
        """Settings as a person gives them: one source, several or none, one name or several."""
        listed = source if isinstance(source, Sequence) else [] if source is None else [source]
        named = [categories] if isinstance(categories, str) else categories
        names = None if named is None else tuple(str(name) for name in named)
        return cls(tuple(as_datamodule(one) for one in listed), names, **settings)

    def expanded(self) -> list[AnomalibDataModule]:
        """One datamodule for every category."""
        return expand_sources(self.datamodules, self.categories, self.seed)

    def datasets(
        self, target: AnomalibDataModule, plan: FitPlan | None
    ) -> tuple[EpisodeDataset, EpisodeDataset | None]:
        """Training episodes, and validation episodes of categories that are not trained on.

        The set-up target only says what must not be among them. Raises ValueError if there is no source.
        """
        if not self.datamodules:
            raise ValueError(
                "found an untrained head and no source to train it on, expected one of them: give --data.source (other "
                f"parts with known defects), a trained head with --model.head, --model.variant {HEAD_FREE}, which "
                "needs no head, or --data.n_abnormal 0"
            )
        selection, resize = (plan.selection, plan.resize) if plan else ("best", None)
        training, validation = self._pools(target, selection)
        logger.info("Training on %s.", ", ".join(pool.name for pool in training))
        nothing = "nothing: none is held out of fewer than five, unless --data.validation_categories names it"
        logger.info("Validating on %s.", ", ".join(pool.name for pool in validation) or nothing)
        check_masks([*training, *validation])
        validation = [as_steady(pool) for pool in validation]
        published = self.sampling == "paper"
        episodes = EpisodeDataset(training, *self.shots, self.episodes, (self.seed,), published)
        episodes.augmentations = resize
        if not validation or selection == "last":
            return episodes, None
        held_out = EpisodeDataset(validation, *self.shots, self.validation_episodes, (self.seed, 1), published)
        held_out.augmentations = resize
        return episodes, held_out

    def _pools(self, target: AnomalibDataModule, selection: str) -> tuple[list[Pool], list[Pool]]:
        """Categories to train on and to validate on."""
        published = self.sampling == "paper"
        pools = [category_pool(source, published) for source in self.expanded()]
        pools = without_target(pools, target, skip=self.categories == ("all",))
        if selection != "paper":
            return split_categories(pools, self.validation_categories, self.seed)
        # The published rule trains on every source category, and looks at the target (Q16).
        named = ["all"] if self.validation_categories == "auto" else self.validation_categories
        every = expand_sources([target], [named] if isinstance(named, str) else named, self.seed)
        return pools, apart([category_pool(one, published) for one in every], pools)


Episodes = EpisodeDataset | TokenEpisodes


def as_planned(
    episodes: EpisodeDataset, validation: EpisodeDataset | None, plan: FitPlan | None
) -> tuple[Episodes, Episodes | None]:
    """Episodes as images, or as rows of a token table for a model that keeps one."""
    pools = (*episodes.pools, *(validation.pools if validation else ()))
    read = [pool.name for pool in pools if pool.reader is not None]
    if read and plan is not None and plan.use_tokens:
        logger.warning(
            "Images of %s are augmented or read by their own dataset: each is encoded whenever an episode shows it, "
            "and the token cache is not used.", ", ".join(read),
        )  # fmt: skip
    if plan is None or plan.resize is None or not plan.use_tokens or read:
        return episodes, validation
    paths = sorted({*episodes.images(), *(validation.images() if validation else ())})
    rows = TokenEpisodes(validation, paths, plan.resize) if validation else None
    return TokenEpisodes(episodes, paths, plan.resize), rows


def training_loader(
    data: Episodes, batch_size: int, num_workers: int, process: tuple[int, int], epoch: int = 0
) -> DataLoader[Any]:
    """Batches of training episodes, from those of ``epoch`` on.

    A ``process`` (which, of how many) has its share of every batch.
    """
    rank, processes = process
    sampler = EpochSampler(len(data), rank, processes)
    # Lightning says it too, but to the loader of a resumed training only after its workers began to read ahead.
    sampler.set_epoch(epoch)
    return EpisodeLoader(
        data,
        batch_size=max(1, batch_size // processes),  # a step sees the same episodes on any number
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate(data),
    )


def validation_loaders(data: Episodes | None, epoch: int, batch_size: int) -> dict[str, DataLoader[Any]]:
    """Validation episodes by category; the same ones after every epoch, other ones by the published rule."""
    if data is None:
        return {}
    episodes = data.episodes if isinstance(data, TokenEpisodes) else data
    start = epoch * len(episodes) if episodes.published else 0
    return {
        category: DataLoader(data, batch_size, sampler=numbers, collate_fn=_collate(data))
        for category, numbers in episodes.by_category(range(start, start + len(episodes))).items()
    }


def _collate(data: Dataset[Any]) -> Callable[..., Any] | None:
    """How items of episodes become a batch; those of tokens do as torch does."""
    return data.collate_fn if isinstance(data, EpisodeDataset) else None


def as_datamodule(given: AnomalibDataModule | Mapping[str, Any]) -> AnomalibDataModule:
    """A datamodule as it is, or built from the plain config that ``anomalib benchmark`` passes on."""
    if isinstance(given, AnomalibDataModule):
        return given
    if isinstance(given, Mapping):
        return get_datamodule(dict(given))
    raise TypeError(f"found {type(given).__name__} as a target or source, expected an anomalib datamodule")
