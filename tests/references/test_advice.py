"""What people are told about the number of their references."""

from __future__ import annotations

from anomalib_nagl.references.advice import ENOUGH_NORMAL, threshold_advice


def test_few_normal_references_are_said_to_make_a_guess() -> None:
    told = [threshold_advice(count) for count in range(ENOUGH_NORMAL + 2)]
    assert "rests on 0 normal references" in str(told[0])
    assert "rests on 1 normal reference, expected at least 4" in str(told[1])
    assert str(told[3]).endswith("add 1 or more good images")
    assert told[ENOUGH_NORMAL:] == [None, None]
