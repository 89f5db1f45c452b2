"""What is traced for export: graphs whose references are inputs, so that they can be baked now and replaced later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from anomalib_nagl.bank.adapted import TENSORS
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.export.exportable import Exportable

OPSET = 18  # has every operator of the graphs; asking for less makes the exporter convert, fail and complain
MARKERS = ("prepared", "tokens")  # where the encoder begins and ends, for whoever takes the graph apart


class DetectionGraph(nn.Module):
    """Images (B, 3, H, W) of any size in [0, 1] and reference tensors -> the model's outputs, then ``MARKERS``.

    The markers are the network input (B, 3, h, w) and its patch tokens (B, M, C).
    """

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model, self.prepare = exportable.model, exportable.prepare
        self.finish, self.output_names = exportable.finish, (*exportable.outputs, *MARKERS)
        self.reference_names = tuple(exportable.reference_tensors())

    def forward(self, images: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Score images by the references that are handed over, in the order of their names."""
        model: NaglModel = self.model
        references = dict(zip(self.reference_names, given, strict=True))
        prepared = self.prepare(images)
        tokens = model.encoder(prepared)
        state = {tensor.name: references[tensor.name][None] for tensor in TENSORS}
        scores = model.predictions(model.head.score(tokens, state, model.encoder.grid).score)
        outputs = self.finish(scores.pred_score, scores.anomaly_map, references["thresholds"])
        outputs = {**outputs, "prepared": prepared, "tokens": tokens}
        return tuple(outputs[name] for name in self.output_names)


class MiningGraph(nn.Module):
    """Tokens (a, M, C) and patch masks (a, M) of all abnormal references, normal bank (K, C) -> proxies (Q, C)."""

    def __init__(self, head: NaglHead, grid: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.grid = head, grid

    def forward(self, normal_bank: Tensor, abnormal_tokens: Tensor, abnormal_patch_mask: Tensor) -> Tensor:
        """Mine residual proxies."""
        abnormal, marked = abnormal_tokens[None], abnormal_patch_mask[None]
        return self.head.mine(abnormal, marked, normal_bank[None], None, self.grid)[0]


def trace_detection(exportable: Exportable, path: Path, input_size: tuple[int, int] | None, **options: Any) -> None:
    """Write ``DetectionGraph`` as an ONNX file.

    Batch, sides of references that grow and, without ``input_size``, image sizes are dynamic.
    """
    graph = DetectionGraph(exportable)
    image = torch.zeros(2, 3, *(input_size or (32, 40)))
    sizes = {0: Dim("batch_size"), **({} if input_size else {2: Dim("height"), 3: Dim("width")})}
    references = exportable.reference_tensors()
    growing = {tensor.name: 5 + 2 * i for i, tensor in enumerate(TENSORS) if tensor.grows}
    for name, rows in growing.items():
        references[name] = references[name].new_zeros(rows, *references[name].shape[1:])
    shapes = tuple({0: Dim(f"{name}_patches")} if name in growing else None for name in references)
    names = ["input", *references]
    _trace(graph, (image, *references.values()), names, list(graph.output_names), (sizes, shapes), path, **options)


def trace_mining(model: NaglModel, path: Path) -> None:
    """Write ``MiningGraph`` as an ONNX file; the size of the bank and the number of images are dynamic."""
    grid, width = model.encoder.grid, model.head.dim
    patches = grid[0] * grid[1]
    example = torch.zeros(7, width), torch.zeros(2, patches, width), torch.zeros(2, patches)
    count = Dim("images")
    names = ["normal_bank", "abnormal_tokens", "abnormal_patch_mask"]
    graph = MiningGraph(model.head, grid)
    _trace(graph, example, names, ["residual_proxies"], ({0: Dim("patches")}, {0: count}, {0: count}), path)


def _trace(
    graph: nn.Module, example: Any, inputs: list[str], outputs: list[str], shapes: Any, path: Path, **options: Any
) -> None:
    device = next(graph.parameters()).device
    torch.onnx.export(
        graph.eval(),
        torch.utils._pytree.tree_map(lambda tensor: tensor.to(device), example),
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes,
        **{"opset_version": OPSET, "external_data": False, "verbose": False, "dynamo": True, **options},
    )
