"""Small pictures of made-up products, drawn rather than downloaded."""

from __future__ import annotations
