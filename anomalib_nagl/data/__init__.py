"""Data of NAGL: episodes of a source, references of a target, and pictures that the package draws itself."""

from __future__ import annotations
