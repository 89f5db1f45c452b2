"""Print the largest deviation from the published code's numbers, by group.

``PYTHONPATH=tests python -m support.golden_report`` runs it.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table

from anomalib_nagl.core.losses import NaglLoss
from support.goldens import CASES, GRID, MAPS, inputs, load, published_head

LOSSES = {"cross_entropy": "out.loss_ce", "focal": "out.loss_focal", "dice": "out.loss_dice", "total": "out.loss"}


def deviations() -> dict[str, float]:
    """Largest absolute deviation of each group over all cases; of gradients, relative to their norm."""
    worst: dict[str, float] = defaultdict(float)

    def note(group: str, value: torch.Tensor | float) -> None:
        worst[group] = max(worst[group], float(torch.as_tensor(value).detach()))

    for name in (*CASES, "n0a1_odd"):
        case = load(name)
        runs = [("solo", published_head("paper-Q1-Q7"))]
        runs += [("out", published_head())] if name != "n0a1_odd" else []
        runs += [("solo_pefix", published_head("paper-Q1-Q2-Q7"))] if name == "n4a2" else []
        for prefix, head in runs:
            maps = head(**inputs(case), grid=GRID)
            for field, (key, tolerance) in MAPS.items():
                if f"{prefix}.{key}" in case:
                    kind = "proxies" if tolerance > 1e-5 else "maps"
                    note(f"{kind} ({prefix}.*)", (getattr(maps, field) - case[f"{prefix}.{key}"]).abs().max())
            if prefix != "out":
                continue
            losses = NaglLoss()(maps, case["in.query_mask"], case["in.query_label"], GRID)
            for field, key in LOSSES.items():
                note("losses", (getattr(losses, field) - case[key]).abs())
            if name != "n1a0":
                losses.total.backward()
                gold = load(f"{name}.grads")
                for parameter, value in head.named_parameters():
                    if f"grad.{parameter}" in gold:
                        gap = (value.grad - gold[f"grad.{parameter}"]).norm()
                        note("gradients, of the norm", gap / gold[f"norm.{parameter}"].clamp(min=1e-6))
    return dict(worst)


def main() -> None:
    """Print the table."""
    table = Table("group", "largest deviation")
    for group, value in sorted(deviations().items()):
        table.add_row(group, f"{value:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
