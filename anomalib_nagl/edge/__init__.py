"""The exported detector without torch: predict, and change what it knows of a part; numpy and openvino only."""

from __future__ import annotations

from anomalib_nagl.bank.reference import Reference
from anomalib_nagl.edge.detector import NaglEdge, Prediction
from anomalib_nagl.io.errors import EdgeError

__all__ = ["EdgeError", "NaglEdge", "Prediction", "Reference"]
