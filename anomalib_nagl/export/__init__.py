"""From a model to files: graphs, OpenVINO, ONNX, and the folder for the box."""

from __future__ import annotations
