"""A datamodule around other datamodules: references of a target, training episodes of a source."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader

from anomalib_nagl.plugin.datasets import describe, exclude, find_copies, hold_out, own_copy
from anomalib_nagl.plugin.episode_source import (
    Episodes,
    EpisodeSource,
    as_datamodule,
    as_planned,
    training_loader,
    validation_loaders,
)
from anomalib_nagl.plugin.episodes import EpisodeDataset
from anomalib_nagl.plugin.error_hook import tell_errors
from anomalib_nagl.plugin.fit_plan import FitPlan
from anomalib_nagl.plugin.randomness import seeded
from anomalib_nagl.plugin.reading import ImageFolder, first_of, served
from anomalib_nagl.plugin.reference_plan import ReferencePlan
from anomalib_nagl.plugin.sample_reader import SampleReader, query_transform, steady_reader
from anomalib_nagl.references.images import image_hash
from anomalib_nagl.references.reference_set import ReferenceSet
from anomalib_nagl.references.sampling import SupportSet
from anomalib_nagl.references.synthetic import SYNTHETIC

logger = logging.getLogger(__name__)


class ReferenceDataModule(AnomalibDataModule):
    """Takes references from a folder or draws them from a target, and draws training episodes from a source.

    ``references`` is a folder of images (``folders.scan``) or the ``references.json`` of an earlier run; without it
    they are drawn from the target, any anomalib image datamodule: ``n_normal`` from its train split, ``n_abnormal``
    from its test split (one each unless said otherwise; of a folder all), by ``seed`` and ``strategy`` (``sampling``).
    References and copies of them are taken out of validation and test. ``masks`` is read as in
    ``ReferenceSet.from_folder``; ``synthetic_abnormal`` more references are made of the normal ones
    (``synthetic.with_synthetic``). With ``references``, ``pictures`` to inspect, a folder or a file, may stand in for
    the target. The source is one datamodule or several, each with its own category, or with those in
    ``source_categories`` ("all" for every one); a model with an untrained head learns from ``episodes`` of it per
    epoch. Some source categories are kept for ``validation_episodes``: those in ``validation_categories``, or one in
    five ("auto"); with a model that selects as published, these are categories of the target's data set, or all of
    them. ``sampling`` "paper" draws episodes by the published rule, where a query may be its own reference. Other
    anomalib models train on the target's normal images.

    Raises ValueError on counts that make no sense, when the target lacks images, or when it is its own source.
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
        validation_categories: list[str] | str | None = "auto",
        validation_episodes: int = 200,
        seed: int = 0,
        strategy: str = "uniform",
        references: str | None = None,
        pictures: str | None = None,
        masks: str = "auto",
        synthetic_abnormal: int = 0,
        synthetic: str = "cut_paste",
    ) -> None:
        tell_errors()
        self.plan = ReferencePlan.make(
            references,
            n_normal=n_normal,
            n_abnormal=n_abnormal,
            seed=seed,
            strategy=strategy,
            masks=masks,
            synthetic_abnormal=synthetic_abnormal,
            synthetic=synthetic,
        )
        self.target = own_copy(_as_target(target, pictures, self.plan))  # the one that was given stays as it is
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=self.target.eval_batch_size if eval_batch_size is None else eval_batch_size,
            num_workers=self.target.num_workers if num_workers is None else num_workers,
            seed=seed,
        )
        # How many references an episode has; a head that will see synthetic ones only learns with real ones.
        self.n_normal = 1 if n_normal is None else n_normal
        self.n_abnormal = max(1 if n_abnormal is None else n_abnormal, min(synthetic_abnormal, 1))
        self.episode_source = EpisodeSource.make(
            source,
            source_categories,
            shots=(self.n_normal, self.n_abnormal),
            episodes=episodes,
            sampling=sampling,
            validation_categories=validation_categories,
            validation_episodes=validation_episodes,
            seed=seed,
        )
        self.validation_data: Episodes | None = None
        self.support_set: SupportSet | None = None
        self.removed = 0
        self.fit_plan: FitPlan | None = None
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
        self._is_setup = self.target._is_setup = False

    @property
    def has_source(self) -> bool:
        """Whether there is anything to train a head on."""
        return bool(self.episode_source.datamodules)

    @property
    def abnormal_shots(self) -> int:
        """How many abnormal references there will be, synthetic ones included."""
        return self.plan.abnormal_shots

    @property
    def brings_references(self) -> bool:
        """Whether references lie in a folder of their own."""
        return self.plan.files is not None

    def prepare_for(self, plan: FitPlan) -> None:
        """Serve what a fit asks for, until it ends."""
        self.fit_plan = plan

    def teardown(self, stage: str) -> None:
        """A plan belongs to one fit, and references on record to one model; another may be next."""
        super().teardown(stage)
        self._forget_run()

    def on_exception(self, exception: BaseException) -> None:
        """A run that failed has no teardown."""
        super().on_exception(exception)
        self._forget_run()

    def _forget_run(self) -> None:
        self.fit_plan = None
        if self._recorded is not None:
            self._recorded, self._is_setup = None, False

    def prepare_data(self) -> None:
        """Let the target, and the sources when a head is trained, fetch what they need."""
        self.target.prepare_data()
        if self.fit_plan is not None and self.fit_plan.mode == "episodes":
            for source in self.episode_source.expanded():
                source.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        with seeded(self.plan.seed):  # synthetic splits draw from everybody's random numbers
            self.target.setup(_stage)
        self.train_augmentations = self.target.train_augmentations
        self.val_augmentations = self.target.val_augmentations
        self.test_augmentations = self.target.test_augmentations
        # Copies: what leaves the sets here stays in the target, so that the choice can be made anew.
        self.train_data, self.test_data = served(self.target.train_data), served(self.target.test_data)
        self.val_data = served(self.target.val_data if hasattr(self.target, "val_data") else self.target.test_data)
        if self._recorded is None:
            self.support_set = self.plan.choose(self.target)
            if self.fit_plan is not None:
                steady_reader(self, self.support_set, describe(self))  # early: they are read after a training
            self.removed = hold_out(self, self.support_set)
        else:
            self.removed = exclude(self, find_copies(self, self._recorded))
            logger.info("%d references of the checkpoint left the test set.", self.removed)
        if isinstance(self.target, ImageFolder):
            self.val_data = served(self.target.val_data)  # the references themselves

    def use_recorded(self, records: Sequence[Mapping[str, str]]) -> None:
        """Leave out the references that a model has, unless they are those chosen here, to the end of this run."""
        chosen = None if self.support_set is None else {image_hash(path) for path in self.support_set.paths}
        known = {record["sha256"] for record in records if record.get("mask_source") != SYNTHETIC}
        if self._recorded is None and self._is_setup and chosen == known:
            return
        self._recorded, self.support_set, self._is_setup = list(records), None, False
        self.setup()
        self._is_setup = True

    def _create_test_split(self) -> None:
        """The target has split already."""

    def _create_val_split(self) -> None:
        """The target has split already."""

    def reference_set(self) -> ReferenceSet:
        """Read the chosen references; ValueError names the first file that will not do."""
        if self.support_set is None:
            self.setup()
        if self.support_set is None:
            raise RuntimeError("found no choice of references after setup(), expected one: report this as a bug")
        return self.plan.load(self.support_set, SampleReader(self.target, query_transform(self)))

    def selection_record(self) -> dict[str, Any]:
        """How the references were chosen, in plain values."""
        return self.plan.selection(self.target)

    def val_dataloader(self) -> Any:
        """The target's validation images; a single one where none is needed, for references are taken then."""
        if self.fit_plan is None or self.fit_plan.needs_validation:
            return self._shared(super().val_dataloader())
        return self._one_of(self.val_data)

    def test_dataloader(self) -> Any:
        """The target's test images that are no references; nothing when there are only images without labels."""
        if isinstance(self.target, ImageFolder):
            logger.info("Nothing to test: the images have no labels. `anomalib predict` scores them.")
            return []
        return self._shared(super().test_dataloader())

    def predict_dataloader(self) -> Any:
        """The images to inspect, or the target's test images."""
        return super().test_dataloader()

    def train_dataloader(self) -> DataLoader[Any]:
        """Episodes, or a single batch when there is nothing to train; the target's normal images for other models."""
        if self.fit_plan is None:
            return super().train_dataloader()
        if self.fit_plan.mode == "references":
            return self._one_of(self.train_data)
        episodes, self.validation_data = as_planned(*self.episode_datasets(), self.fit_plan)
        progress: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        epoch = progress.processed if progress else 0
        return training_loader(episodes, self.train_batch_size, self.num_workers, self._process, epoch)

    def _one_of(self, preferred: AnomalibDataset) -> DataLoader[Any]:
        """A single image of a split, or of another one if it is empty."""
        splits = (preferred, self.train_data, self.test_data)
        one = first_of(next((split for split in splits if len(split)), preferred))
        return DataLoader(one, batch_size=1, collate_fn=one.collate_fn)

    def validation_loaders(self, epoch: int) -> dict[str, DataLoader[Any]]:
        """Validation episodes by category, as of the last ``train_dataloader``; none where there are none."""
        return validation_loaders(self.validation_data, epoch, self.train_batch_size)

    def episode_datasets(self) -> tuple[EpisodeDataset, EpisodeDataset | None]:
        """Training episodes, and validation episodes of categories not trained on; ValueError without a source."""
        self.setup()
        return self.episode_source.datasets(self.target, self.fit_plan)

    @property
    def _process(self) -> tuple[int, int]:
        """Which process this is, of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _shared(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Divide images among processes, each once: Lightning would repeat some to make the shares equal."""
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


def _as_target(
    given: AnomalibDataModule | Mapping[str, Any] | None, pictures: str | None, plan: ReferencePlan
) -> AnomalibDataModule:
    """The target, or the images that stand in for it."""
    if given is None and pictures is None and plan.files is None:
        raise ValueError(
            "found neither a target nor references of its own, expected one of them: give --data.target (any anomalib "
            "datamodule), or --data.references (a folder) and --data.pictures"
        )
    if given is not None:
        if pictures is not None:
            raise ValueError("found both a target and pictures, expected one of them to inspect: leave one out")
        return as_datamodule(given)
    files = plan.files
    known = [] if files is None else [sample.image for sample in files.normal or files.abnormal]
    part = Path(files.root).resolve().name if files is not None and Path(files.root).is_dir() else "references"
    return ImageFolder(pictures, known, part)
