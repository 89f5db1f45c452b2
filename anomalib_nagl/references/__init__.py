"""Reference images: folders, records, sampling, synthetic defects, quality."""

from __future__ import annotations
