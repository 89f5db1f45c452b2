"""A loader that begins to prepare a batch before the one ahead of it is used."""

from __future__ import annotations

import torch

from anomalib_nagl.plugin.copied_ahead import EpisodeLoader, OneAhead


def test_batches_come_in_order_and_one_ahead() -> None:
    loader = EpisodeLoader(torch.arange(7), batch_size=2)
    plain = [batch.tolist() for batch in loader]
    noted = []

    def begin(batch: torch.Tensor) -> torch.Tensor:
        noted.append(("begin", batch[0].item()))
        return batch + 100

    def end(batch: torch.Tensor) -> torch.Tensor:
        noted.append(("end", batch[0].item() - 100))
        return batch - 100

    batches = iter(loader)  # Lightning asks for it before anybody can say where tokens are
    loader.ahead = OneAhead(begin, end)
    assert [batch.tolist() for batch in batches] == plain == [[0, 1], [2, 3], [4, 5], [6]]
    begun = [("begin", start) for start in (0, 2, 4, 6)]
    ended = [("end", start) for start in (0, 2, 4, 6)]
    assert noted == [begun[0], begun[1], ended[0], begun[2], ended[1], begun[3], ended[2], ended[3]]


def test_a_loader_of_nothing_ends() -> None:
    loader = EpisodeLoader(torch.arange(0), batch_size=2)
    loader.ahead = OneAhead(lambda batch: batch, lambda batch: batch)
    assert list(loader) == []
