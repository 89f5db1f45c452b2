"""From images and masks of references to what a detector compares with: graphs that run when references change."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches
from anomalib_nagl.bank.mining import mined
from anomalib_nagl.bank.patch_masks import guess_patch_mask, patch_mask, region_patches, resize_mask
from anomalib_nagl.bank.pools import heads
from anomalib_nagl.edge.infer_requests import Requests
from anomalib_nagl.edge.runtime import compile_graph, part_of, read_graph, windows_of
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import check_file
from anomalib_nagl.io.windows import Cut, join_windows, plan_windows

ENCODE = (("image",), ("tokens",))
TOUCHED = (("image", "which"), ("windows",))
MINE = (("normal_bank", "abnormal_tokens", "abnormal_patch_mask"), ("residual_proxies",))
Floats = NDArray[np.float32]


class ReferenceEncoder:
    """Encodes references exactly: in f32 on the CPU, whatever the detector does, as an export does.

    ``references`` is the graph of residual mining. It holds an encoder too where that of queries, ``encoder``, is
    compressed. Graphs are read and compiled at first use, if they still have the hashes ``files`` of the manifest by
    then: another export may have taken their place. ``facts`` are those of the model.
    """

    def __init__(
        self,
        core: ov.Core,
        encoder: Path,
        references: Path,
        config: dict[str, Any],
        facts: Mapping[str, Any],
        files: Mapping[str, str],
    ) -> None:
        self._core, self._encoder, self._references = core, encoder, references
        self._facts, self._files = facts, files
        self._config = {**config, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        self._lock = threading.Lock()
        self._parts: dict[str, Requests] = {}
        cut = Cut.of(facts)
        # Residual mining wants all patches of a known defect's image.
        self._windows = None if cut is None or facts["proxies"] else cut

    @property
    def by_windows(self) -> bool:
        """Whether some windows of an image can be encoded without the others."""
        return self._windows is not None

    def encode(self, image: Floats) -> Floats:
        """Patch tokens (M, C) of an image (3, H, W)."""
        tokens: Floats = self._part("encode", *ENCODE).infer({"image": ov.Tensor(image[None])})["tokens"]
        return tokens[0]

    def encode_touched(self, image: Floats, wanted: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
        """Patch tokens (M, C) of those windows of an image (3, H, W) that hold a ``wanted`` patch (M,), and which.

        Tokens of other windows are zero.
        """
        if self._windows is None:
            raise ValueError("found a model that sees images as a whole, expected one with windows")
        size, grid = self._size("image_size"), self._size("grid")
        plan = plan_windows(size, self._windows.window, self._windows.overlap, size[0] // grid[0])
        which = np.unique(plan.owner[wanted])
        seen = np.append(which, len(plan.corners)) if self._windows.overview else which
        inputs = {"image": ov.Tensor(image[None]), "which": ov.Tensor(seen.astype(np.int64))}
        found: Floats = self._part("windows", *TOUCHED).infer(inputs)["windows"]
        return join_windows(plan, found, which, self._windows.overview)

    def _size(self, name: str) -> tuple[int, int]:
        return int(self._facts[name][0]), int(self._facts[name][1])

    def patch_mask(self, kind: str, tokens: Floats, mask: Floats | None, known: ReferencePatches) -> Floats:
        """Which patches of an image (M, C) are meant, 0/1 (M,): the abnormal ones, or those of a normal region.

        By its mask (H, W) or, of an abnormal image without one, guessed from normal references. EdgeError where there
        are none.
        """
        if kind == "normal":
            return np.zeros(len(tokens), np.float32)
        grid = self._size("grid")
        if mask is not None:
            resized = resize_mask(mask, self._size("image_size"))
            if kind == "region":
                return region_patches(resized, grid)
            return patch_mask(resized, grid, bool(self._facts["shifted_grid"]))
        if not known.normal:
            raise EdgeError(
                "found an abnormal image without a mask and no normal reference, expected one of them: give a mask, "
                "or add a normal reference first"
            )
        return guess_patch_mask(tokens, heads(known.normal, known.limits.normal, known.width), known.inside)

    def mine(self, patches: ReferencePatches, normal_bank: Floats) -> Floats:
        """Residual proxies (Q, C) of references and their normal bank; zeros without abnormal ones."""
        if not patches.abnormal or not self._facts["proxies"]:
            return np.zeros((int(self._facts["num_proxies"]), patches.width), np.float32)
        abnormal = mined(patches)
        inputs = {
            "normal_bank": ov.Tensor(np.ascontiguousarray(normal_bank)),
            "abnormal_tokens": ov.Tensor(abnormal.tokens),
            "abnormal_patch_mask": ov.Tensor(abnormal.patch_mask),
        }
        proxies: Floats = self._part("mine", *MINE).infer(inputs)["residual_proxies"]
        return proxies

    def _part(self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Requests:
        with self._lock:
            if name not in self._parts:
                graph = self._read(self._references)
                if name != "mine" and not any("image" in port.get_names() for port in graph.inputs):
                    graph = self._read(self._encoder)
                graph = windows_of(graph) if name == "windows" else part_of(graph, inputs, outputs)
                self._parts[name] = Requests(compile_graph(self._core, graph, "CPU", self._config), 1)
            return self._parts[name]

    def _read(self, path: Path) -> ov.Model:
        """A graph, if it is still the one that was exported with the others."""
        for part in (path, path.with_suffix(".bin")):
            if part.name in self._files:
                check_file(part, self._files[part.name])
        return read_graph(self._core, path)
