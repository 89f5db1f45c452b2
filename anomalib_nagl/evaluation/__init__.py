"""Protocols, baselines and tables: what ``anomalib-nagl evaluate`` runs."""

from __future__ import annotations

__all__: list[str] = []
