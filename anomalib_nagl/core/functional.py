"""Pure tensor functions of NAGL: no modules, no state, no input or output.

Shapes: B images, grid of rows x cols = M patches, K patches in a bank, width C. Section numbers and quirks (Qn) are
those of the algorithm specification that the tests check against; the paper is arXiv 2510.00495.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BANK_CHUNK = 2048  # patches compared at once: few enough for the products to stay in the processor's cache
QUERY_CHUNK = 8192  # patches of queries that are compared at once: a large image has tens of thousands
LONGEST = 1024  # pixels of an axis that is blurred by one square matrix


class Match(NamedTuple):
    """The best bank patch of every token: its similarity (B, L) and its place (B, L) in the bank."""

    similarity: Tensor
    patch: Tensor


def l2_normalize(tokens: Tensor) -> Tensor:
    """Scale tokens (..., C) to Euclidean length 1; a zero token stays zero."""
    return F.normalize(tokens, dim=-1, eps=1e-12)


def nearest(tokens: Tensor, bank: Tensor, valid: Tensor | None = None, masked: float = -math.inf) -> Match:
    """Find the bank patch with the largest (1 + dot product) / 2 for every token; the first one wins a tie.

    Tokens are (B, L, C), the bank (B, K, C) or (1, K, C) when all images share it. Unit tokens give the cosine map of
    section 4, raw ones the matching of section 5. ``valid`` (B, K) marks the patches that may be chosen, the others
    compete with the value ``masked``. Queries and bank are searched in chunks, so memory does not grow with them; an
    exported graph, whose bank may have any size, searches it at once.
    """
    best: Match | None = None
    whole = torch.compiler.is_compiling()
    if not whole and tokens.shape[0] * tokens.shape[1] > QUERY_CHUNK and tokens.shape[1] > 1:
        parts = tokens.split(max(QUERY_CHUNK // tokens.shape[0], 1), dim=1)
        if len(parts) > 1:
            found = [nearest(part, bank, valid, masked) for part in parts]
            return Match(*(torch.cat(values, dim=1) for values in zip(*found, strict=True)))
    for start in (0,) if whole else range(0, bank.shape[1], BANK_CHUNK):
        chunk = slice(None) if whole else slice(start, start + BANK_CHUNK)
        product = tokens @ bank[:, chunk].transpose(1, 2)
        if valid is not None:
            product = torch.where(valid[:, None, chunk], product, 2 * masked - 1)
        value, index = product.max(dim=-1)
        value = (1 + value) / 2  # of the largest alone: a pass over all of them costs as much as the product
        index = index + start
        if best is not None:
            closer = value > best.similarity
            value = torch.where(closer, value, best.similarity)
            index = torch.where(closer, index, best.patch)
        best = Match(value, index)
    if best is None:
        raise ValueError("found an empty bank, expected at least one reference patch: add a reference image")
    return best


def gather_patches(bank: Tensor, index: Tensor) -> Tensor:
    """Pick patches (B, L, C) by their index (B, L) from a bank (B, K, C), or (1, K, C) when all images share it."""
    if bank.shape[0] == 1:
        return bank[0][index]
    return bank.gather(1, index[..., None].expand(-1, -1, bank.shape[-1]))


def mean_similarity(tokens: Tensor, proxies: Tensor) -> Tensor:
    """Mean over proxies (B, Q, C) of (1 + cosine) / 2 for tokens (B, M, C): the abnormal map of section 8, (B, M)."""
    # The mean of unit proxies commutes with the dot product, which spares the (M, Q) matrix.
    return (
        1 + (l2_normalize(tokens) @ l2_normalize(proxies).mean(dim=1, keepdim=True).transpose(1, 2)).squeeze(-1)
    ) / 2


def sine_position(grid: tuple[int, int], dim: int, masked: Tensor | None = None) -> Tensor:
    """Sine embedding of patch coordinates, row half first (section 6): (M, dim), or (..., M, dim) for masks (..., M).

    Coordinates count the unmasked patches from the top and from the left, scaled to 2 pi at the last one.
    """
    rows, cols = grid
    free = torch.ones(rows, cols) if masked is None else (~masked).float().unflatten(-1, grid)
    down, right = free.cumsum(-2), free.cumsum(-1)
    down = down / (down[..., -1:, :] + 1e-6) * (2 * math.pi)
    right = right / (right[..., :, -1:] + 1e-6) * (2 * math.pi)
    # An odd width gives the row half the spare channel.
    position = torch.cat([_sine_code(down, (dim + 1) // 2), _sine_code(right, dim // 2)], dim=-1)
    return position.flatten(-3, -2)


def _sine_code(value: Tensor, width: int) -> Tensor:
    channel = torch.arange(width, device=value.device)
    wavelength = 10_000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / max(width, 1))
    phase = value[..., None] / wavelength
    return torch.where(channel % 2 == 0, phase.sin(), phase.cos())


def mask_to_grid(mask: Tensor, grid: tuple[int, int], shifted: bool = False) -> Tensor:
    """Mark the patches that hold any pixel of a 0/1 mask: (B, k, H, W) -> (B, k, M), float 0/1 (section 3).

    ``shifted`` moves the windows one pixel up and left, as the published code does (Q5). The mask must divide into the
    grid, else ValueError.
    """
    (height, width), (rows, cols) = mask.shape[-2:], grid
    if height % rows or width % cols:
        raise ValueError(
            f"found a mask of {height}x{width} pixels, expected multiples of the grid {rows}x{cols}: "
            "resize the mask to the size of the network input"
        )
    patch = (height // rows, width // cols)
    if not shifted:
        return F.max_pool2d(mask.float(), patch).flatten(-2)
    window = mask.new_ones(1, 1, *patch, dtype=torch.float32)
    count = F.conv2d(mask.float().flatten(0, 1)[:, None], window, stride=patch, padding=1)
    count = torch.where(count >= 1, 1.0, count)
    return count[..., :rows, :cols].reshape(*mask.shape[:2], -1)


def away_from_mask(marked: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches are neither marked nor next to a marked one: (..., M) -> bool (..., M)."""
    cells = (marked > 0).float().reshape(-1, 1, *grid)
    return F.max_pool2d(cells, 3, stride=1, padding=1).reshape(marked.shape) == 0


def top_mean(score: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` largest patch scores (B, M) -> (B,)."""
    return score.topk(count, dim=-1).values.mean(dim=-1)


def image_score(score: Tensor, fraction: float = 0.01, cells: int | None = None) -> Tensor:
    """Image score (B,): mean of the largest ``fraction`` of the patch scores (B, M), at least one (section 9).

    ``cells`` is of how many patches the fraction is taken, all unless given: those of one window of a large image.
    """
    return top_mean(score, max(int(fraction * (cells or score.shape[-1])), 1))


def smoothing_matrix(cells: int, pixels: int, sigma: float) -> Tensor:
    """Matrix (pixels, cells): bilinear up-sampling, then a Gaussian of ``sigma`` pixels (section 9).

    The Gaussian is cut at 4 sigma and mirrored at the border, the border pixel repeated. Both steps are linear and
    separable, so an anomaly map is two small products: exact in every runtime, and cheap.
    """
    upsample = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], size=pixels, mode="linear")[0].T
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return upsample.float()
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma).double() ** 2)
    source = (torch.arange(pixels)[:, None] + offset) % (2 * pixels)
    source = torch.minimum(source, 2 * pixels - 1 - source)
    if pixels > LONGEST:  # the square matrix would be larger than all else of a large image
        share = weight / weight.sum()
        return sum((upsample[place] * part for place, part in zip(source.T, share, strict=True))).float()
    blur = torch.zeros(pixels, pixels, dtype=torch.float64)
    blur.scatter_add_(1, source, (weight / weight.sum()).expand(pixels, -1))
    return (blur @ upsample).float()


def anomaly_map(score: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Anomaly map (B, 1, H, W) of patch scores (B, M), given the smoothing matrices (H, rows) and (W, cols)."""
    cells = score.unflatten(-1, (down.shape[1], right.shape[1]))
    return (down @ cells @ right.T)[:, None]


def binned_auroc(score: Tensor, label: Tensor, bins: int = 1000) -> Tensor:
    """AUROC of scores and 0/1 labels by which the published code selects a model (Q18), on a grid of bins.

    It counts the largest score twice, in the last bin and beyond it; use an exact AUROC for anything else.
    """
    score = score.double()
    low, high = score.min().item(), score.max().item()
    rates = []
    for chosen in (score[label > 0], score[label == 0]):
        count = torch.cat([torch.histc(chosen, bins, low, high), (chosen >= high).sum()[None]]).flip(0).cumsum(0)
        rates.append(torch.cat([count.new_zeros(1), count / count[-1]]))
    return torch.trapezoid(rates[0], rates[1])


def patches_to_pixels(marked: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Whole patches (a, M) as pixels (a, H, W)."""
    cells = marked.unflatten(-1, grid)
    return cells.repeat_interleave(size[0] // grid[0], dim=-2).repeat_interleave(size[1] // grid[1], dim=-1)
