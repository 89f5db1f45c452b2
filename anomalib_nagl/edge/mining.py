"""From pictures and masks to what a detector compares with: ``references.xml``, run when references change."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_nagl.bank.bank_file import Pack
from anomalib_nagl.edge.runtime import Requests, compile_graph, part_of, read_graph
from anomalib_nagl.io.errors import EdgeError

ENCODE = (("image", "mask"), ("tokens", "marks"))
MINE = (("normal_bank", "abnormal_tokens", "abnormal_marks"), ("residual_proxies",))


class Miner:
    """The two graphs of ``references.xml``, read and compiled at first use.

    One turns a picture and its mask into patch tokens and marked patches, the other the patches of all references into
    residual proxies. Both compute in f32 whatever the detector does, as an export does.
    """

    def __init__(self, core: ov.Core, path: Path, config: dict[str, Any]) -> None:
        self._core, self._path = core, path
        self._config = {**config, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._lock = threading.Lock()
        self._parts: dict[str, Requests] = {}

    def encode(
        self, picture: NDArray[np.float32], mask: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Patch tokens (M, C) of a picture (3, H, W), and 0/1 (M,) where its mask (H, W) marks a patch."""
        pixels = np.zeros(picture.shape[1:], np.float32) if mask is None else mask
        inputs = {"image": ov.Tensor(picture[None]), "mask": ov.Tensor(pixels[None])}
        outputs = self._part("encode", *ENCODE).infer(inputs)
        return outputs["tokens"][0], outputs["marks"][0]

    def mine(self, pack: Pack) -> NDArray[np.float32]:
        """Residual proxies (Q, C) of the references of a pack; zeros without abnormal ones."""
        if not pack.abnormal:
            return np.zeros_like(pack.residual_proxies)
        inputs = {
            "normal_bank": ov.Tensor(pack.normal_bank()),
            "abnormal_tokens": ov.Tensor(np.stack([one.tokens for one in pack.abnormal])),
            "abnormal_marks": ov.Tensor(np.stack([one.marks for one in pack.abnormal])),
        }
        proxies: NDArray[np.float32] = self._part("mine", *MINE).infer(inputs)["residual_proxies"]
        return proxies

    def most_deviating(self, tokens: NDArray[np.float32], pack: Pack) -> NDArray[np.float32]:
        """Mark the patches (M,) of a defective picture (M, C) that no mask came with; EdgeError without normal ones."""
        if not pack.normal:
            raise EdgeError(
                "found an abnormal picture without a mask and no normal reference, expected one of them: give a mask, "
                "or add a normal reference first"
            )
        return most_deviating_patches(tokens, np.concatenate([one.tokens for one in pack.normal]))

    def _part(self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Requests:
        with self._lock:
            if name not in self._parts:
                graph = part_of(read_graph(self._core, self._path), inputs, outputs)
                self._parts[name] = Requests(compile_graph(self._core, graph, "CPU", self._config), 1)
            return self._parts[name]


def most_deviating_patches(tokens: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mark, 0/1 (M,), the patches of a picture (M, C) that deviate most from a bank of normal patches (K, C).

    A patch deviates by 1 - its largest cosine to the bank. Marked are those at least half way between the picture's
    median and its maximum, hence always one.
    """
    deviation = 1 - (_unit(tokens) @ _unit(bank).T).max(axis=1)
    marked: NDArray[np.float32] = (deviation >= (deviation.max() + np.median(deviation)) / 2).astype(np.float32)
    return marked


def _unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    length: NDArray[np.float32] = np.linalg.norm(tokens, axis=1, keepdims=True)
    return tokens / np.maximum(length, np.float32(1e-12))
