"""What normal parts vary by, taken out of residuals: a residual that other normal patches explain is no defect.

After the normal-variation eraser of IDEAL (`mala-lab/IDEAL`), written from its description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anomalib_nagl.core.functional import gather_patches

NEIGHBOURS = 12  # nearest normal patches that tell how normal ones vary around a patch
KEPT = 0.8  # share of their variance that the erased axes hold


@torch.no_grad()
def erase(residual: Tensor, tokens: Tensor, bank: Tensor, allowed: Tensor | None) -> Tensor:
    """Residuals (B, L, C) less their part in the local normal subspace of their tokens (B, L, C).

    That subspace is spanned by the leading principal axes of the nearest patches, by cosine, of the bank (B, K, C), or
    (1, K, C) for all, among those ``allowed`` (B, K). Decided by tokens alone, so no gradient passes.
    """
    cosine = F.normalize(tokens, dim=-1) @ F.normalize(bank, dim=-1).transpose(1, 2)
    if allowed is not None:
        cosine = cosine.masked_fill(~allowed[:, None], -torch.inf)
    value, index = cosine.topk(min(NEIGHBOURS, bank.shape[1]), dim=-1)
    index = torch.where(value.isfinite(), index, index[..., :1])  # fewer than that: the nearest again
    around = gather_patches(bank, index.flatten(1, 2)).unflatten(1, index.shape[1:])
    around = around - around.mean(dim=2, keepdim=True)
    variance, axes = torch.linalg.eigh(around @ around.transpose(-1, -2))  # rising
    larger = variance.flip(-1).cumsum(-1).flip(-1) - variance  # what the axes before it hold
    total = variance.sum(dim=-1, keepdim=True)
    kept = (larger < KEPT * total) & (variance > 1e-6 * total) & (total > 0)
    share = (around @ residual[..., None]).transpose(-1, -2) @ axes  # (B, L, 1, NEIGHBOURS)
    share = torch.where(kept, 1 / variance.clamp(min=1e-30), 0.0)[..., None, :] * share
    return residual - (share @ axes.transpose(-1, -2) @ around).squeeze(-2)
