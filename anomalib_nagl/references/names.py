"""Names of choices that settings check before anything heavy is imported: this module needs nothing."""

from __future__ import annotations

MASK_POLICIES = ("auto", "whole", "required")
STRATEGIES = ("uniform", "per_type", "published")
SYNTHETIC_METHODS = ("cut_paste", "perlin")


def check_name(setting: str, name: str, names: tuple[str, ...]) -> None:
    """Raise ValueError unless a setting has one of these names."""
    if name not in names:
        raise ValueError(f"found {setting}={name!r}, expected one of {', '.join(names)}")


def check_synthetic(count: int, method: str) -> None:
    """Raise ValueError unless these are a number of synthetic references and a method to make them."""
    check_name("synthetic", method, SYNTHETIC_METHODS)
    if count < 0:
        raise ValueError(f"found synthetic_abnormal={count}, expected at least 0")
