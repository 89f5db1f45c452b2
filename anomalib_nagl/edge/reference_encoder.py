"""From images and masks of references to what a detector compares with: graphs that run when references change."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import normal_bank
from anomalib_nagl.bank.bank import Bank
from anomalib_nagl.bank.patch_masks import guess_patch_mask, patch_mask, resize_mask
from anomalib_nagl.edge.runtime import Requests, compile_graph, part_of, read_graph
from anomalib_nagl.io.errors import EdgeError

ENCODE = (("image",), ("tokens",))
MINE = (("normal_bank", "abnormal_tokens", "abnormal_patch_mask"), ("residual_proxies",))


class ReferenceEncoder:
    """Encodes references exactly: in f32 on the CPU, whatever the detector does, as an export does.

    ``references`` is the graph of residual mining. It holds an encoder too where that of queries, ``encoder``, is
    compressed. Graphs are read and compiled at first use.
    """

    def __init__(self, core: ov.Core, encoder: Path, references: Path, config: dict[str, Any]) -> None:
        self._core, self._encoder, self._references = core, encoder, references
        self._config = {**config, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._lock = threading.Lock()
        self._parts: dict[str, Requests] = {}

    def encode(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patch tokens (M, C) of an image (3, H, W)."""
        tokens: NDArray[np.float32] = self._part("encode", *ENCODE).infer({"image": ov.Tensor(image[None])})["tokens"]
        return tokens[0]

    def patch_mask(
        self, tokens: NDArray[np.float32], mask: NDArray[np.float32] | None, bank: Bank
    ) -> NDArray[np.float32]:
        """Which patches of an abnormal image (M, C) are abnormal, 0/1 (M,), by its mask (H, W) or guessed.

        EdgeError without a mask and without normal references to compare with.
        """
        if mask is not None:
            compatibility = bank.compatibility
            resized = resize_mask(mask, compatibility["image_size"])
            return patch_mask(resized, compatibility["grid"], compatibility["shifted_grid"])
        if not bank.normal:
            raise EdgeError(
                "found an abnormal image without a mask and no normal reference, expected one of them: give a mask, "
                "or add a normal reference first"
            )
        return guess_patch_mask(tokens, np.concatenate([one.tokens for one in bank.normal]))

    def mine(self, bank: Bank) -> NDArray[np.float32]:
        """Residual proxies (Q, C) of the references of a bank; zeros without abnormal ones."""
        if not bank.abnormal or not bank.compatibility["proxies"]:
            return np.zeros_like(bank.residual_proxies)
        patches = bank.patches()
        inputs = {
            "normal_bank": ov.Tensor(normal_bank(patches)),
            "abnormal_tokens": ov.Tensor(patches.abnormal),
            "abnormal_patch_mask": ov.Tensor(patches.patch_mask),
        }
        proxies: NDArray[np.float32] = self._part("mine", *MINE).infer(inputs)["residual_proxies"]
        return proxies

    def _part(self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Requests:
        with self._lock:
            if name not in self._parts:
                graph = read_graph(self._core, self._references)
                if name == "encode" and not any("image" in port.get_names() for port in graph.inputs):
                    graph = read_graph(self._core, self._encoder)
                graph = part_of(graph, inputs, outputs)
                self._parts[name] = Requests(compile_graph(self._core, graph, "CPU", self._config), 1)
            return self._parts[name]
