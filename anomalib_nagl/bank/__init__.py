"""What is known of a part: references, their file, and every rule that is decided from them. No torch."""

from __future__ import annotations
