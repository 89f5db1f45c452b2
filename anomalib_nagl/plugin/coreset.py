"""A coreset of normal patches, by anomalib's greedy selection."""

from __future__ import annotations

import torch
from anomalib.models.components import KCenterGreedy
from torch import Tensor

from anomalib_nagl.core.functional import l2_normalize


def coreset(bank: Tensor, limit: int | None) -> Tensor:
    """Indices of at most ``limit`` patches of a bank (K, C), spread out by anomalib's greedy selection.

    The same ones each time; all of them without a limit.
    """
    if not limit or len(bank) <= limit:
        return torch.arange(len(bank), device=bank.device)
    sampler = KCenterGreedy(l2_normalize(bank), (limit + 0.5) / len(bank))
    sampler.model.random_state = 0  # of its projection, which no other seed reaches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.tensor(sampler.select_coreset_idxs(), device=bank.device).sort().values
