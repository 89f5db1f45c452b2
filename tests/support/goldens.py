"""Golden vectors of the published code: the base case beside this file, the others where they are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from anomalib_nagl.core.head import NaglHead
from support.places import SHARED, TESTS

GRID = (8, 8)
CASES = ("n1a1", "n2a1", "n4a2", "n1a1_b3", "n1a1_emptymask", "n2a1_nmask", "n0a1_equal", "n0a1_mixed", "n1a0")
MAPS = {
    "normal_similarity": ("s_n", 1e-5),
    "abnormal_similarity": ("s_a", 1e-5),
    "score": ("fused", 1e-5),
    "residual_proxies": ("residual_proxies", 1e-4),
    "anomaly_proxies": ("anomaly_proxies", 1e-4),
}


def find(name: str) -> Path:
    """Path of a golden file; skips the test, saying which file is missing, when it is nowhere."""
    for folder in (TESTS / "golden", SHARED / "spec" / "golden"):
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"golden file {name} not found: set NAGL_SHARED to the folder that holds spec/golden")


def load(name: str) -> dict[str, Tensor]:
    """Tensors of a golden file, floating and mask values as float32."""
    tensors = load_file(find(f"{name}.safetensors"))
    return {k: v.float() if v.dtype in (torch.float16, torch.uint8) else v for k, v in tensors.items()}


def metadata(name: str) -> dict[str, str]:
    """Metadata of a golden file."""
    with safe_open(find(f"{name}.safetensors"), "pt") as file:
        return file.metadata() or {}


def weights() -> dict[str, Tensor]:
    """The head's weights, under the published names."""
    return load("weights_rm") | load("weights_afl")


def inputs(case: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arguments of ``NaglHead.forward`` for a case file, an absent kind of reference as zero images."""
    query = case["in.query_feat"].squeeze(1)
    empty = query.new_zeros(query.shape[0], 0, *query.shape[1:])
    pixels = case["in.query_mask"].shape[-2:]
    return {
        "query": query,
        "normal": case.get("in.normal_feat", empty),
        "abnormal": case.get("in.abnormal_feat", empty),
        "abnormal_mask": case.get("in.abnormal_mask", query.new_zeros(query.shape[0], 0, *pixels)),
        "normal_mask": case.get("in.normal_mask"),
    }


def published_head(variant: str = "paper") -> NaglHead:
    head = NaglHead(variant=variant)
    head.load_published({f"module.{k}": v for k, v in weights().items()})
    return head
