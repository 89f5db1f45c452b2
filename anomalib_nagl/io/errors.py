"""What goes wrong on the box, in words."""

from __future__ import annotations


class EdgeError(ValueError):
    """A model, a reference pack, an image or a mask that will not do; the message says what to do instead."""
