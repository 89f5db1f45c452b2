"""Large images resized band by band: torchvision's numbers."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, Resize

from anomalib_nagl.core.resizing import BandResize, MatrixResize


@pytest.mark.parametrize(
    ("source", "target"),
    [((70, 1100), (64, 1040)), ((20, 500), (64, 1040)), ((300, 2600), (48, 1040)), ((48, 90), (48, 1040))],
)
def test_it_is_torchvisions(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *source, generator=torch.Generator().manual_seed(0))
    wanted = Resize(list(target), interpolation=InterpolationMode.BICUBIC, antialias=True)(image)
    found = BandResize(target)(image)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)  # it has positions in 32 bits
    torch.testing.assert_close(found, MatrixResize(target)(image), atol=2e-6, rtol=0)


def test_what_is_no_image_of_floats_goes_torchvisions_way() -> None:
    resize = BandResize((16, 1040))
    mask = tv_tensors.Mask(torch.arange(40).reshape(1, 2, 20) % 2)
    assert set(resize(mask).unique().tolist()) == {0, 1}
    assert resize(torch.zeros(3, 8, 20, dtype=torch.uint8)).dtype == torch.uint8
    image = resize(tv_tensors.Image(torch.zeros(3, 8, 20)))
    assert isinstance(image, tv_tensors.Image)
    assert image.shape == (3, 16, 1040)
