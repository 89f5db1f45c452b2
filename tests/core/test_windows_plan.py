"""Plans of windows, and tokens that are stitched by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from anomalib_nagl.bank import maps
from anomalib_nagl.core.functional import nearest, smoothing_matrix
from anomalib_nagl.encoders.base import Encoder
from anomalib_nagl.encoders.windowed import WindowedEncoder
from anomalib_nagl.io.windows import Cut, join_windows, plan_windows

SIZES = [(2096, 4496), (1264, 496), (464, 1136), (304, 7008), (96, 96), (448, 448)]


class Means(Encoder):
    """Tokens are the mean colours of patches, so that any window gives the same token of a patch."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("means", size, 16, 3, (0, 0, 0), (1, 1, 1))
        self._weights_arrived()

    def _tokens(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 16).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_every_patch_comes_from_the_window_whose_middle_is_nearest(size: tuple[int, int]) -> None:
    plan = plan_windows(size, (448, 448), 64, 16)
    rows, cols = plan.grid
    assert (rows, cols) == (size[0] // 16, size[1] // 16)
    assert len(np.unique(plan.source)) == rows * cols
    corner = plan.corners[plan.owner]
    inside = plan.source % (plan.inner[0] * plan.inner[1])
    row, col = np.divmod(np.arange(rows * cols), cols)
    np.testing.assert_array_equal(corner[:, 0] // 16 + inside // plan.inner[1], row)
    np.testing.assert_array_equal(corner[:, 1] // 16 + inside % plan.inner[1], col)
    for axis, place in ((0, row), (1, col)):
        starts = np.unique(plan.corners[:, axis])
        steps = np.diff(starts)
        assert (steps <= plan.window[axis] - 64 + 16).all()
        middle = starts + plan.window[axis] / 2
        away = np.abs(place[:, None] * 16 + 8 - middle[None])
        held = np.abs(place * 16 + 8 - corner[:, axis] - plan.window[axis] / 2)
        np.testing.assert_array_equal(held, away.min(axis=1))


@pytest.mark.parametrize("size", [(96, 160), (64, 64), (48, 208)])
def test_stitched_tokens_are_those_of_the_whole_image(size: tuple[int, int]) -> None:
    base = Means((min(size[0], 64), 64))
    encoder = WindowedEncoder(base, size, Cut((64, 64), 16, False))
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(encoder(images), Means(size)(images))


def test_the_overview_is_the_second_half_of_a_token() -> None:
    encoder = WindowedEncoder(Means((64, 64)), (128, 192), Cut((64, 64), 16, True))
    image = torch.rand(1, 3, 1, 1).expand(1, 3, 128, 192).contiguous()
    tokens = encoder(image)
    unit = torch.nn.functional.normalize(image[0, :, 0, 0], dim=0)
    torch.testing.assert_close(tokens[0, 5], torch.cat([unit, unit]) * 0.5**0.5)


def test_some_windows_give_their_part_of_all() -> None:
    encoder = WindowedEncoder(Means((64, 64)), (128, 192), Cut((64, 64), 16, True))
    image = torch.rand(1, 3, 128, 192)
    which = np.array([1, 4])
    corners = encoder.plan.corners[which]
    seen = torch.stack([encoder.base(image[:, :, top : top + 64, left : left + 64])[0] for top, left in corners])
    found = torch.cat([seen, encoder.base(encoder.overview(image))]).numpy()
    tokens, known = join_windows(encoder.plan, found, which, True)
    np.testing.assert_array_equal(known, np.isin(encoder.plan.owner, which))
    np.testing.assert_allclose(tokens[known], encoder(image)[0].numpy()[known], atol=1e-6)
    assert not tokens[~known].any()


def test_an_overlap_that_leaves_nothing_new_is_refused() -> None:
    with pytest.raises(ValueError, match="found an overlap of 64 pixels"):
        plan_windows((128, 128), (64, 64), 64, 16)


def test_many_queries_are_compared_in_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, bank = torch.randn(2, 9000, 8, generator=generator), torch.randn(1, 50, 8, generator=generator)
    found = nearest(tokens, bank)
    torch.testing.assert_close(found.similarity, ((1 + tokens @ bank[0].T) / 2).amax(-1))


def test_long_axes_are_blurred_alike() -> None:
    matrix = smoothing_matrix(80, 1280, 4.0)
    torch.testing.assert_close(matrix[:640, :40][:500], smoothing_matrix(40, 640, 4.0)[:500], atol=1e-6, rtol=0)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(1280), atol=1e-5, rtol=0)
    np.testing.assert_allclose(maps.smoothing_matrix(80, 1280, 4.0), matrix.numpy(), atol=1e-6)
