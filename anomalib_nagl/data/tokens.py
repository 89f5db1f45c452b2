"""Training on tokens: the encoder is frozen and pictures are not augmented, so each is encoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Mask

from anomalib_nagl.data.episodes import EpisodeDataset
from anomalib_nagl.data.selection import Sample
from anomalib_nagl.references import check_mask, keep_thin, load_image, load_mask

logger = logging.getLogger(__name__)
ENCODE_BATCH = 8


class TokenBatch(NamedTuple):
    """Episodes whose pictures are rows of a token table.

    Rows are (B,), (B, n) and (B, a); masks are 0/1 at the size of the network input, (B, H, W) and (B, a, H, W); labels
    are (B,), 1 for an abnormal query.
    """

    query: Tensor
    normal: Tensor
    abnormal: Tensor
    query_mask: Tensor
    abnormal_mask: Tensor
    label: Tensor


class TokenEpisodes(Dataset[TokenBatch]):
    """The episodes of another dataset, pictures replaced by their row in a token table."""

    def __init__(self, episodes: EpisodeDataset, size: tuple[int, int], resize: Transform) -> None:
        self.episodes, self.size, self.resize = episodes, size, resize
        self.paths = episodes.pictures()
        self._rows = {path: row for row, path in enumerate(self.paths)}
        self._masks: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """Episodes in an epoch."""
        return len(self.episodes)

    def __getitem__(self, number: int) -> TokenBatch:
        """Rows and masks of an episode; ValueError names a mask that will not do."""
        episode = self.episodes.draw(number)
        masks = [self._mask(sample) for sample in episode.abnormal]
        return TokenBatch(
            torch.tensor(self._rows[episode.query.image]),
            self._numbers(episode.normal),
            self._numbers(episode.abnormal),
            self._mask(episode.query) if episode.label else torch.zeros(self.size),
            torch.stack(masks) if masks else torch.zeros(0, *self.size),
            torch.tensor(episode.label),
        )

    def _numbers(self, found: tuple[Sample, ...]) -> Tensor:
        return torch.tensor([self._rows[sample.image] for sample in found], dtype=torch.long)

    def _mask(self, sample: Sample) -> Tensor:
        if sample.image not in self._masks:
            image, mask = load_image(sample.image), load_mask(sample.mask, sample.image)
            check_mask(mask, (image.shape[-2], image.shape[-1]), sample.image)
            resized = self.resize(Mask(mask)).as_subclass(Tensor)
            kept = resized if self.episodes.published else keep_thin(resized, mask)
            self._masks[sample.image] = np.packbits(kept.numpy() != 0)
        bits = np.unpackbits(self._masks[sample.image], count=self.size[0] * self.size[1])
        return torch.from_numpy(bits.reshape(self.size)).float()


class _Pictures(Dataset[Tensor]):
    def __init__(self, paths: list[str], transform: Transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(load_image(self.paths[index])).as_subclass(Tensor)


def encode_pictures(
    paths: list[str],
    transform: Transform,
    encode: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float16,
    num_workers: int = 0,
) -> Tensor:
    """Token table (N, M, C) of pictures, in the order of their paths, on the CPU; ``shape`` is (M, C).

    Says how large the table is before it starts, and shows its progress. ValueError names a file that is no image.
    """
    size = len(paths) * shape[0] * shape[1] * dtype.itemsize / 2**20
    logger.info("Encoding %d pictures once, %.0f MB of tokens in memory.", len(paths), size)
    table = torch.empty(len(paths), *shape, dtype=dtype)
    loader = DataLoader(_Pictures(paths, transform), batch_size=ENCODE_BATCH, num_workers=num_workers)
    done = 0
    for images in track(loader, description="Encoding pictures", total=len(loader)):
        table[done : done + len(images)] = encode(images).to("cpu", dtype)
        done += len(images)
    return table
