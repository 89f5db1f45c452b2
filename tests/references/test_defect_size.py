"""What is said of defects that are small at the input."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_nagl.references.defect_size import defect_side, size_advice


def square(size: tuple[int, int], side: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10 : 10 + side, 10 : 10 + side] = True
    return mask


def test_the_largest_region_counts_as_it_is_resized() -> None:
    mask = square((200, 400), 20)
    mask[150:155, 300:305] = True
    assert defect_side(mask, (200, 400)) == pytest.approx(20)
    assert defect_side(mask, (100, 100)) == pytest.approx((20 * 20 * 0.5 * 0.25) ** 0.5)
    assert defect_side(np.zeros((9, 9), bool), (9, 9)) == 0


@pytest.mark.parametrize(
    ("side", "size", "windows", "said"),
    [
        (400, (2000, 4000), False, None),
        (80, (2000, 4000), False, "--model.window 448, by which they are 80 pixels large"),
        (20, (2000, 4000), False, "still small"),
        (20, (2000, 4000), True, "enlarge the images, to about 1.6 times"),
        (34, (440, 440), False, "--model.image_size 440,440"),
    ],
)
def test_advice(side: int, size: tuple[int, int], windows: bool, said: str | None) -> None:
    found = size_advice([square(size, side)], [size], size if windows else (256, 256), 16, windows)
    assert found is None if said is None else said in str(found)


def test_masks_that_say_nothing_are_left_out() -> None:
    assert size_advice([np.zeros((9, 9), bool)], [(9, 9)], (256, 256), 16, False) is None
