"""Tokens on their way to a GPU: those of the next batch are copied while the device works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_nagl.plugin.token_cache import PlacedTokens, TokenBatch, TokenTable


class OneAhead(NamedTuple):
    """Two halves of a preparation: begun when a batch is fetched, ended when it is asked for, one batch later."""

    begin: Callable[[Any], Any]
    end: Callable[[Any], Any]


class EpisodeLoader(DataLoader[Any]):
    """A loader of episodes; with ``ahead``, each batch is begun to be prepared before the one ahead of it is used."""

    ahead: OneAhead | None = None

    def __iter__(self) -> Any:
        """Batches; ``ahead`` may still be set before the first is asked for, as Lightning asks for iterators early."""
        return self._prepared(super().__iter__())

    def _prepared(self, batches: Iterator[Any]) -> Iterator[Any]:
        if self.ahead is None:
            yield from batches
            return
        begin, end = self.ahead
        waiting: list[Any] = []
        for batch in batches:
            waiting.append(begin(batch))
            if len(waiting) > 1:
                yield end(waiting.pop(0))
        for begun in waiting:
            yield end(begun)


class _Copying(NamedTuple):
    """A batch whose copies are under way until ``done``."""

    batch: PlacedTokens
    done: torch.cuda.Event


def copied_ahead(table: TokenTable, device: torch.device) -> OneAhead:
    """Copy the tokens and masks of a ``TokenBatch`` to a CUDA device, beside what it computes."""
    beside = torch.cuda.Stream(device)

    def begin(batch: TokenBatch) -> _Copying:
        with torch.cuda.stream(beside):
            tokens = [table.on(rows, device) for rows in batch[:3]]
            rest = [tensor.pin_memory().to(device, non_blocking=True) for tensor in batch[3:]]
            return _Copying(PlacedTokens(*tokens, *rest), beside.record_event())

    def end(copying: _Copying) -> PlacedTokens:
        now = torch.cuda.current_stream(device)
        now.wait_event(copying.done)
        for tensor in copying.batch:
            _keep(tensor, now)
        return copying.batch

    return OneAhead(begin, end)


def _keep(tensor: Tensor, stream: torch.cuda.Stream) -> None:
    """Do not give memory away before ``stream`` is done with it: it was taken on another one."""
    tensor.record_stream(stream)
