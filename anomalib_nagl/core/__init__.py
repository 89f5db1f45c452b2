"""The algorithm: head, fusion, losses and the model, in torch; neither anomalib nor Lightning."""

from __future__ import annotations
