"""Windows of a model: what a person asked for, and what the sizes of references make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anomalib_nagl.core.variants import resolve_views
from anomalib_nagl.encoders import Encoder, parse_image_size
from anomalib_nagl.io.windows import AUTO_SIDE, Cut, wants_windows

AUTO = "auto"


@dataclass(frozen=True)
class Windows:
    """How images are cut: ``cut``, or None where they are seen as a whole.

    ``open`` is whether the size of the input still has to come from the references; with ``auto`` they also decide
    whether there are windows at all.
    """

    cut: Cut | None = None
    open: bool = False
    auto: bool = False

    @classmethod
    def parse(cls, window: Any, overlap: Any, overview: bool | None, given: Mapping[str, Any], head: bool) -> Windows:
        """Read the settings of a model; ValueError for windows that cannot be.

        ``window`` has large images seen in windows of so many pixels a side, at their own size; neighbours share
        ``overlap`` pixels at least. "auto" does where references are larger than one and a half. With ``overview``,
        which is on unless a trained ``head`` reads tokens of a single scale, the whole image counts beside them.
        The ``image_size`` of ``given`` is that of the whole image, the references' own if it is left out.
        """
        if window is None:
            if overview:
                raise ValueError("found overview without window, expected both: give --model.window 448")
            return cls()
        side = parse_image_size(AUTO_SIDE if window == AUTO else window)
        if not isinstance(overlap, int) or isinstance(overlap, bool) or not 0 <= overlap < min(side):
            raise ValueError(f"found overlap {overlap!r}, expected fewer pixels than the window of {min(side)}: try 64")
        if overview and head:
            raise ValueError(
                "found an overview beside a trained head, which reads tokens of one scale, expected one of them: leave "
                "the head out, or give --model.overview false"
            )
        if (
            window == AUTO
            and given["image_size"] is not None
            and not wants_windows(parse_image_size(given["image_size"]))
        ):
            return cls()
        cut = Cut(side, overlap, not head if overview is None else overview)
        return cls(cut, given["image_size"] is None, window == AUTO)

    @classmethod
    def settled(cls, cut: Cut | None) -> Windows:
        """Those of a model whose size is known."""
        return cls(cut)

    def sized(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a model before its references are known: the input is one window until then."""
        if self.cut is None or not self.open:
            return dict(given)
        return {**given, "image_size": self.cut.window}

    def views(self, views: str, variant: str) -> str:
        """The views that "auto" stands for: windows show enough of a part as it lies."""
        return "none" if self.cut is not None and views == AUTO else resolve_views(views, variant)


def facts_of(encoder: Encoder) -> dict[str, Any] | None:
    """How an encoder cuts images, as plain values; None where it does not."""
    return None if encoder.cut is None else encoder.cut.facts()
