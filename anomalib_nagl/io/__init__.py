"""Files, images and errors: the torch-free ground that everything stands on."""

from __future__ import annotations
