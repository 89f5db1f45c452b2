"""Small images of made-up products, rendered rather than downloaded."""

from __future__ import annotations
