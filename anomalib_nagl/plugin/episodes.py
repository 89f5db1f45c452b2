"""Training episodes: a query with references of the same source category (specification, section 13.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.dataclasses.numpy.image import NumpyImageBatch, NumpyImageItem
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Image, Mask

from anomalib_nagl.core.resizing import keep_thin
from anomalib_nagl.plugin.randomness import seeded
from anomalib_nagl.references.images import check_mask, load_mask
from anomalib_nagl.references.reference_set import read_files
from anomalib_nagl.references.sampling import Sample, spread_types

# Makes image (3, H, W) and, if wanted, mask (H, W) of a sample.
Reader = Callable[[Sample, bool], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Pool:
    """Images of one source category: normal references, normal queries, and defects by type."""

    name: str
    normal: tuple[Sample, ...]
    normal_queries: tuple[Sample, ...]
    abnormal: tuple[Sample, ...]
    reader: Reader | None = None  # None where files are read as they are
    steady_reader: Reader | None = None  # to validate with

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image of the pool."""
        return self.normal + self.normal_queries + self.abnormal

    def check_species(self, n_normal: int, n_abnormal: int) -> None:
        """Raise ValueError unless every species has enough images for the published draw."""
        for found, count in ((self.normal, n_normal), (self.abnormal, n_abnormal)):
            smallest = min((len(group) for group in _by_type(found)), default=0)
            if smallest < max(count, 1):
                raise ValueError(
                    f"found a species of {smallest} images in source category {self.name!r}, expected at least "
                    f"{max(count, 1)}: leave the category out or ask for fewer references"
                )

    def check(self, n_normal: int, n_abnormal: int) -> None:
        """Raise ValueError unless an episode can always be drawn with a query that is not a reference."""
        needs = {
            "normal training": (len(self.normal), n_normal),
            "normal": (len(set(self.normal) | set(self.normal_queries)), n_normal + 1),
            "abnormal": (len(self.abnormal), n_abnormal + 1),
        }
        for kind, (found, expected) in needs.items():
            if found < expected:
                raise ValueError(
                    f"found {found} {kind} images in source category {self.name!r}, expected at least {expected} for "
                    f"{n_normal} normal and {n_abnormal} abnormal references and a query: "
                    "leave the category out or ask for fewer references"
                )


class Episode(NamedTuple):
    """One training example: a query and its references; ``label`` is 1 for an abnormal query."""

    query: Sample
    label: int
    normal: tuple[Sample, ...]
    abnormal: tuple[Sample, ...]
    category: str


def draw_episode(pools: Sequence[Pool], n_normal: int, n_abnormal: int, key: Sequence[int]) -> Episode:
    """Draw an episode whose query is never among its own references; ``key`` alone decides it.

    Category, then query kind, then defect type are uniform; references share the defect type of the query when it has
    one and the type has enough images.
    """
    generator = np.random.default_rng(list(key))
    pool = pools[int(generator.integers(len(pools)))]
    label = int(generator.integers(2))
    types = sorted({sample.defect_type for sample in pool.abnormal})
    kind = types[int(generator.integers(len(types)))]
    of_kind = [sample for sample in pool.abnormal if sample.defect_type == kind]
    if len(of_kind) < n_abnormal + label:
        of_kind = list(pool.abnormal)
    abnormal = spread_types(of_kind, generator)[: n_abnormal + label]
    normal = spread_types(pool.normal, generator)[:n_normal]
    if label:
        return Episode(abnormal[-1], 1, normal, abnormal[:-1], pool.name)
    taken = {sample.image for sample in normal}
    queries = [sample for sample in pool.normal_queries or pool.normal if sample.image not in taken]
    if not queries:
        queries = [sample for sample in pool.normal if sample.image not in taken]
    return Episode(queries[int(generator.integers(len(queries)))], 0, normal, abnormal, pool.name)


def draw_published(
    pools: Sequence[Pool], n_normal: int, n_abnormal: int, numpy: np.random.RandomState, python: random.Random
) -> Episode:
    """Draw an episode as the published code does, draw by draw: the query may be its own reference (Q14, Q15).

    A pool holds the test split here: its species keep the order of first appearance.
    """
    pool = pools[int(numpy.choice(len(pools), 1)[0])]
    species = [_by_type(pool.normal), _by_type(pool.abnormal)]
    chosen, references = [], []
    for groups, count in zip(species, (n_normal, n_abnormal), strict=True):
        group = groups[int(numpy.choice(len(groups), 1)[0])]
        chosen.append(group)
        references.append(tuple(group[i] for i in python.sample(range(len(group)), count)))
    label = int(numpy.choice(2, 1)[0])
    query = chosen[label][python.sample(range(len(chosen[label])), 1)[0]]
    return Episode(query, label, references[0], references[1], pool.name)


def _by_type(found: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in found:
        groups.setdefault(sample.defect_type, []).append(sample)
    return list(groups.values())


@dataclass
class EpisodeItem(ImageItem):
    """A query with its references: images (n, 3, H, W) and (a, 3, H, W), masks 0/1 (a, H, W)."""

    ref_normal: Tensor | None = None
    ref_abnormal: Tensor | None = None
    ref_mask: Tensor | None = None
    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyImageItem


@dataclass
class EpisodeBatch(ImageBatch):
    """Queries with their references: images (B, n, 3, H, W) and (B, a, 3, H, W), masks 0/1 (B, a, H, W)."""

    ref_normal: Tensor | None = None
    ref_abnormal: Tensor | None = None
    ref_mask: Tensor | None = None
    item_class: ClassVar[type[EpisodeItem]] = EpisodeItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyImageBatch


class EpisodeDataset(Dataset[EpisodeItem]):
    """Endless episodes by number; ``seed`` and the number decide an episode, whatever process asks for it.

    A ``seed`` of several numbers is a stream of its own. ``augmentations`` resizes images before they are stacked. The
    reader of a pool reads its images, with random numbers of the episode's own.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        n_normal: int,
        n_abnormal: int,
        length: int,
        seed: tuple[int, ...],
        published: bool = False,
    ) -> None:
        for pool in pools:
            (pool.check_species if published else pool.check)(n_normal, n_abnormal)
        self.pools, self.n_normal, self.n_abnormal = list(pools), n_normal, n_abnormal
        self.length, self.seed, self.published = length, seed, published
        self.augmentations: Transform | None = None
        self.collate_fn = EpisodeBatch.collate

    def __len__(self) -> int:
        """Episodes in an epoch."""
        return self.length

    def draw(self, number: int) -> Episode:
        """The episode of a number, which counts on over epochs."""
        if self.published:
            state = np.random.SeedSequence([*self.seed, number]).generate_state(2)
            numpy, python = np.random.RandomState(state[0]), random.Random(int(state[1]))
            return draw_published(self.pools, self.n_normal, self.n_abnormal, numpy, python)
        return draw_episode(self.pools, self.n_normal, self.n_abnormal, (*self.seed, number))

    def by_category(self, numbers: Iterable[int]) -> dict[str, list[int]]:
        """Numbers of episodes, grouped by the category they are drawn from."""
        groups: dict[str, list[int]] = {}
        for number in numbers:
            groups.setdefault(self.draw(number).category, []).append(number)
        return groups

    def images(self) -> list[str]:
        """Paths of every image that an episode may hold, sorted."""
        return sorted({sample.image for pool in self.pools for sample in pool.samples})

    def __getitem__(self, number: int) -> EpisodeItem:
        """Read the images of an episode; ValueError names a file that will not do."""
        episode = self.draw(number)
        with seeded(int(np.random.SeedSequence([*self.seed, number, 1]).generate_state(1)[0])):
            query, query_mask = self._read(episode, episode.query, abnormal=bool(episode.label))
            normal = [self._read(episode, sample, abnormal=False)[0] for sample in episode.normal]
            abnormal = [self._read(episode, sample, abnormal=True) for sample in episode.abnormal]
        empty = query.new_empty(0, *query.shape)
        return EpisodeItem(
            image=Image(query),
            gt_mask=Mask(query_mask),
            gt_label=torch.tensor(episode.label),
            image_path=episode.query.image,
            ref_normal=torch.stack(normal) if normal else empty,
            ref_abnormal=torch.stack([image for image, _ in abnormal]) if abnormal else empty,
            ref_mask=torch.stack([mask for _, mask in abnormal]) if abnormal else empty[:, 0],
        )

    def _read(self, episode: Episode, sample: Sample, abnormal: bool) -> tuple[Tensor, Tensor]:
        pool = next(pool for pool in self.pools if pool.name == episode.category and sample in pool.samples)
        image, mask = read_sample(pool, sample, abnormal)
        if self.augmentations is not None:
            image, resized = self.augmentations(Image(image), Mask(mask))
            mask = resized if self.published else keep_thin(resized, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def read_sample(pool: Pool, sample: Sample, abnormal: bool) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and mask (H, W), 0/1, of a sample as its pool reads it; ValueError for a mask that will not do.

    An augmentation that leaves nothing of a defect is not used.
    """
    image, found = (pool.reader or read_files)(sample, abnormal)
    if abnormal and found is not None and pool.reader is not pool.steady_reader and not bool(found.any()):
        image, found = (pool.steady_reader or read_files)(sample, abnormal)
    if not abnormal:
        return image, torch.zeros(image.shape[-2:], dtype=torch.uint8)
    mask = load_mask(None, sample.image) if found is None else found
    check_mask(mask, (image.shape[-2], image.shape[-1]), sample.image)
    return image, mask


class EpochSampler(DistributedSampler[int]):
    """Numbers of an epoch's episodes, in order, counting on from epoch to epoch, so that none is seen twice.

    Of several processes each takes its share of every step. A distributed sampler even for one process: Lightning
    shuffles others when there are several. It tells this one the epoch.
    """

    def __init__(self, length: int, rank: int = 0, processes: int = 1) -> None:
        super().__init__(range(length), processes, rank, shuffle=False)  # type: ignore[arg-type]  # any sized will do
        self.length = length

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the current epoch."""
        start = self.epoch * self.length
        return iter([start + index for index in super().__iter__()])
