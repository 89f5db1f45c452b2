"""Training on tokens: the encoder is frozen and images are not augmented, so each is encoded once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize, Transform
from torchvision.tv_tensors import Mask

from anomalib_nagl.core.resizing import keep_thin
from anomalib_nagl.plugin.episodes import EpisodeDataset
from anomalib_nagl.plugin.token_store import FileStore, MemoryStore, bytes_hash
from anomalib_nagl.references.images import check_mask, load_image, load_mask
from anomalib_nagl.references.sampling import Sample

ENCODE_BATCH = 8


class TokenBatch(NamedTuple):
    """Episodes whose images are rows of a token table.

    Rows are (B,), (B, n) and (B, a); masks are 0/1 at the size of the network input, (B, H, W) and (B, a, H, W); labels
    are (B,), 1 for an abnormal query.
    """

    query: Tensor
    normal: Tensor
    abnormal: Tensor
    query_mask: Tensor
    abnormal_mask: Tensor
    label: Tensor


class PlacedTokens(NamedTuple):
    """A ``TokenBatch`` on the device of the head: tokens (B, M, C), (B, n, M, C) and (B, a, M, C) instead of rows."""

    query: Tensor
    normal: Tensor
    abnormal: Tensor
    query_mask: Tensor
    abnormal_mask: Tensor
    label: Tensor


class TokenEpisodes(Dataset[TokenBatch]):
    """The episodes of another dataset, images replaced by their row in a token table.

    ``paths`` are the images of the table, in its order.
    """

    def __init__(self, episodes: EpisodeDataset, paths: list[str], resize: Resize) -> None:
        height, width = resize.size
        self.episodes, self.paths, self.size, self.resize = episodes, paths, (height, width), resize
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
            image, mask = load_image(sample.image), load_mask(sample.masks, sample.image)
            check_mask(mask, (image.shape[-2], image.shape[-1]), sample.image)
            resized = self.resize(Mask(mask)).as_subclass(Tensor)
            kept = resized if self.episodes.published else keep_thin(resized, mask)
            self._masks[sample.image] = np.packbits(kept.numpy() != 0)
        bits = np.unpackbits(self._masks[sample.image], count=self.size[0] * self.size[1])
        return torch.from_numpy(bits.reshape(self.size)).float()


class _Images(Dataset[Tensor]):
    def __init__(self, paths: list[str], transform: Transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(load_image(self.paths[index])).as_subclass(Tensor)


class TokenTable:
    """Tokens of images by their place in a list of paths; images of the same content share theirs."""

    def __init__(self, place: Tensor, tokens: MemoryStore | FileStore) -> None:
        self._place, self._tokens = place, tokens

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Tokens (..., M, C) of rows (...), float32 on the CPU."""
        return self._tokens[self._place[rows]]

    def on(self, rows: Tensor, device: torch.device) -> Tensor:
        """The same on a device; to a GPU they are copied beside what this process does next."""
        places = self._place[rows.cpu()]
        return self._tokens[places].to(device) if device.type != "cuda" else self._tokens.to_gpu(places, device)


class Processes(NamedTuple):
    """Which of several processes this is, and a function that sums a tensor over all of them."""

    rank: int
    total: int
    add: Callable[[Tensor], Tensor]


def _console() -> Console:
    """A terminal of its own: the display of a training that stands above does not redraw what is put into it."""
    return Console(file=sys.__stderr__ or sys.stderr)


def encode_images(
    paths: list[str],
    transform: Transform,
    encode: Callable[[Tensor], Tensor],
    store: Callable[[list[str]], MemoryStore | FileStore],
    processes: Processes,
    num_workers: int = 0,
) -> TokenTable:
    """Encode every distinct image once over all processes, unless ``store`` of the contents has its tokens.

    Shows its progress. ValueError names a file that is no image, or says that there is no room.
    """
    contents = [bytes_hash(path) for path in paths]
    first = {content: path for path, content in reversed(list(zip(paths, contents, strict=True)))}
    distinct = sorted(first)
    tokens = store(distinct)
    batches = [tokens.missing[i : i + ENCODE_BATCH] for i in range(0, len(tokens.missing), ENCODE_BATCH)]
    own = batches[processes.rank :: processes.total]
    pictures = _Images([first[content] for content in distinct], transform)
    loader = DataLoader(pictures, batch_sampler=own, num_workers=num_workers)
    shown = track(loader, description="Encoding images", console=_console(), disable=not own, transient=True)
    for rows, images in zip(own, shown, strict=True):
        # Filled up to one size: kernels differ by batch size in the last bits, and tokens should not.
        filled = images[torch.arange(ENCODE_BATCH) % len(images)]
        tokens.put(rows, encode(filled)[: len(images)])
    tokens.share(processes.add)
    place = {content: row for row, content in enumerate(distinct)}
    return TokenTable(torch.tensor([place[content] for content in contents]), tokens)
