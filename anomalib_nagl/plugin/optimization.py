"""The published optimiser and learning-rate schedule (specification, section 13.1)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

WEIGHT_DECAY = 0.01
STEP_EPOCHS, STEP_FACTOR = (10, 15), 0.1


def published_optimizer(
    head: nn.Module, learning_rate: float, decay_all: bool
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """AdamW whose rate falls at epochs 10 and 15.

    ``decay_all`` applies weight decay to every tensor (Q30), otherwise biases, norms and proxies are spared.
    """
    named = list(head.named_parameters())
    spared = {name for name, value in named if value.ndim < 2 or "proxies" in name}
    groups: list[dict[str, Any]] = [
        {"params": [value for name, value in named if name not in spared]},
        {"params": [value for name, value in named if name in spared], "weight_decay": WEIGHT_DECAY * decay_all},
    ]
    optimizer = AdamW(groups, lr=learning_rate, weight_decay=WEIGHT_DECAY)
    return [optimizer], [MultiStepLR(optimizer, STEP_EPOCHS, STEP_FACTOR)]
