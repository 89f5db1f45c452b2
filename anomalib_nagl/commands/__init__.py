"""Command lines, imported when they are called."""

from __future__ import annotations
