"""Encoders: images to patch tokens, frozen, with weights that load when they are first needed."""

from __future__ import annotations

from anomalib_nagl.encoders.base import Encoder, parse_image_size
from anomalib_nagl.encoders.builtin import BuiltinEncoder
from anomalib_nagl.encoders.cnn import CnnEncoder
from anomalib_nagl.encoders.gabor import GaborEncoder
from anomalib_nagl.encoders.registry import build_encoder
from anomalib_nagl.encoders.vit import VitEncoder
from anomalib_nagl.encoders.weights import WeightsError

__all__ = [
    "BuiltinEncoder",
    "CnnEncoder",
    "Encoder",
    "GaborEncoder",
    "VitEncoder",
    "WeightsError",
    "build_encoder",
    "parse_image_size",
]
