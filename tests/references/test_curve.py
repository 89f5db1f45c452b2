"""Where on the curve of more references a part stands."""

from __future__ import annotations

import math

import pytest
import torch

from anomalib_nagl.references import curve
from anomalib_nagl.references.curve import CurvePoint, Measured, general_sentence, own_curve, own_sentence


def tokens(count: int, patches: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, patches, 8, generator=torch.Generator().manual_seed(seed))


def test_more_images_leave_a_held_out_one_less_apart() -> None:
    points = own_curve(tokens(6), torch.empty(0, 4, 8), torch.empty(0, 4))
    assert [point.normal for point in points] == [1, 2, 4, 5]
    values = [point.held_out for point in points]
    assert values == sorted(values, reverse=True)
    assert all(math.isnan(point.stands_out) for point in points)


def test_each_image_is_held_out_from_itself() -> None:
    same = tokens(1).expand(4, -1, -1)
    assert [point.held_out for point in own_curve(same, torch.empty(0, 4, 8), torch.empty(0, 4))] == pytest.approx(
        [0] * 3, abs=1e-6
    )
    apart = own_curve(tokens(3), torch.empty(0, 4, 8), torch.empty(0, 4))
    assert apart[-1].held_out > 0.01  # all others, not itself


def test_defects_stand_out_by_their_marked_patches() -> None:
    normal, defect = tokens(4), tokens(1)
    whole, none = torch.ones(1, 4), torch.tensor([[1.0, 0, 0, 0]])
    defect = defect.clone()
    defect[0, 1:] = normal[0, 1:]  # what is not marked is known
    assert own_curve(normal, tokens(1, seed=9), whole)[-1].stands_out > 0
    known = own_curve(normal, normal[:1], none)
    assert known[-1].stands_out < own_curve(normal, tokens(1, seed=9), none)[-1].stands_out


def test_no_curve_of_one_image() -> None:
    assert own_curve(tokens(1), torch.empty(0, 4, 8), torch.empty(0, 4)) == []
    assert own_sentence([CurvePoint(1, 0.1, math.nan)]) is None


def test_falling_and_flat_are_told_apart() -> None:
    falling = own_sentence([CurvePoint(1, 0.2, 2), CurvePoint(2, 0.1, 3)])
    flat = own_sentence([CurvePoint(1, 0.2, 2), CurvePoint(2, 0.199, 2)])
    assert falling is not None
    assert falling.startswith("Still falling: a held-out good image deviates by 0.2000 with 1")
    assert flat is not None
    assert flat.startswith("Flat")


def test_what_other_parts_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    points = tuple(Measured(n, a, 0.8 + n / 100 + a / 50, 0.1 + a / 10, 3) for n in (1, 4) for a in (0, 1))
    monkeypatch.setattr(curve, "measured", lambda: points)
    said = general_sentence(3, 0)
    assert said is not None
    assert "1 normal and 0 defective references gave a mean image AUROC of 0.810 and a pixel AP of 0.100" in said
    assert "(draws of references: 3)" in said
    assert said.endswith("4 + 0 0.840 and 0.100, 1 + 1 0.830 and 0.200")
    assert general_sentence(9, 9) is not None
    assert ";" not in general_sentence(9, 9)
    assert general_sentence(0, 1) is None


def test_the_curve_in_the_package_is_read() -> None:
    said = general_sentence(16, 1)
    assert said is not None
    assert "16 normal and 1 defective references" in said
    assert all(0.5 < point.image_auroc < 1 and 0 < point.pixel_ap < 1 for point in curve.measured())
