"""The exported detector without torch: predict, and change what it knows of a part; numpy and openvino only."""

from __future__ import annotations

from anomalib_nagl.edge.detector import NaglEdge, Prediction
from anomalib_nagl.edge.errors import EdgeError
from anomalib_nagl.edge.pack import Reference

__all__ = ["EdgeError", "NaglEdge", "Prediction", "Reference"]
