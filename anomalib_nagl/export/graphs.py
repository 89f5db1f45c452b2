"""What is traced for export: graphs whose references are inputs, so that they can be baked now and replaced later."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from anomalib_nagl.bank.adapted import TENSORS
from anomalib_nagl.core.functional import anomaly_map
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.interest import score_within, shown, within
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.export.exportable import Exportable

OPSET = 18  # has every operator of the graphs; asking for less makes the exporter convert, fail and complain
INSIDE = "inside_scores"  # (B, M), with the smallest of those in the region in place of the others
MAPS = ("anomaly_map", "pred_mask")
SCORES = "scores"  # (B, M), the same as an input of what follows
RAW = "patch_scores"  # (B, M), before anything is made of them: what thresholds are found by on a box
# Where images have been resized, where the encoder begins and where it ends, for whoever takes the graph apart.
MARKERS = ("resized", "prepared", "tokens")
REGION = "region"  # the one of the tensors that needs all patches of an image
PATCHWISE = tuple(tensor.name for tensor in TENSORS if tensor.name != REGION)


class EncoderGraph(nn.Module):
    """Images (B, 3, H, W) of any size in [0, 1] -> ``MARKERS``, the first of them where resizing is a step of its own.

    These are images (B, 3, h, w), network input (B, 3, h, w) and patch tokens (B, M, C).
    """

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.resize, self.prepare = exportable.resize, exportable.prepare
        self.encoder = exportable.model.encoder
        self.markers = MARKERS[self.resize is None :]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode images."""
        resized = images if self.resize is None else self.resize(images)
        prepared = self.prepare(resized)
        return (resized, prepared, self.encoder(prepared))[-len(self.markers) :]


class ScorerGraph(nn.Module):
    """Patch tokens (B, M, C) and reference tensors, in the order of their names -> the model's outputs and ``RAW``."""

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model, self.finish = exportable.model, exportable.finish
        self.output_names = (*exportable.outputs, RAW)
        self.reference_names = tuple(exportable.reference_tensors())

    def forward(self, tokens: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Score encoded images by the references that are handed over."""
        model: NaglModel = self.model
        references = dict(zip(self.reference_names, given, strict=True))
        state = {tensor.name: references[tensor.name][None] for tensor in TENSORS}
        raw = model.head.score(tokens, state, model.encoder.grid).score
        scores = model.predictions(raw, references[REGION])
        decided = references["thresholds"], references["scale"]
        outputs = {RAW: raw, **self.finish(scores.pred_score, scores.anomaly_map, *decided)}
        return tuple(outputs[name] for name in self.output_names)


class PatchGraph(nn.Module):
    """Patch tokens (B, P, C) of any number and the adapted state -> scores (B, P); for heads without proxies."""

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model = exportable.model

    def forward(self, tokens: Tensor, *given: Tensor) -> Tensor:
        """Score patches, each by itself."""
        model: NaglModel = self.model
        state = {name: value[None] for name, value in zip(PATCHWISE, given, strict=True)}
        return model.head.score(tokens, state, model.encoder.grid).score


class FinishGraph(nn.Module):
    """Scores (B, M) of all patches of images, and the reference tensors ``names`` -> the model's outputs."""

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model, self.finish, self.output_names = exportable.model, exportable.finish, exportable.outputs
        self.names = [name for name in exportable.reference_tensors() if name not in PATCHWISE]

    def forward(self, scores: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Make outputs of scores."""
        decided = dict(zip(self.names, given, strict=True))
        found = self.model.predictions(scores, decided[REGION])
        outputs = self.finish(found.pred_score, found.anomaly_map, decided["thresholds"], decided["scale"])
        return tuple(outputs[name] for name in self.output_names)


class ImageGraph(nn.Module):
    """The part of ``FinishGraph`` that is of whole images: scores (B, M) within the region (B, M), then the outputs."""

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model, self.finish = exportable.model, exportable.finish
        self.output_names = [INSIDE, *(name for name in exportable.outputs if name not in MAPS)]
        self.names = [REGION, "thresholds", "scale"]

    def forward(self, scores: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Make scores and labels of images."""
        encoder, (region, *decided) = self.model.encoder, given
        inside = shown(region, encoder.image_size, encoder.grid).patches
        kept = within(scores, inside)
        score = score_within(kept, inside, encoder.window_cells)
        outputs = {INSIDE: kept, **self.finish(score, score[:, None, None, None], *decided)}
        return tuple(outputs[name] for name in self.output_names)


class BandGraph(nn.Module):
    """The part that is of some rows of maps: scores (B, M) within the region, and what is known of these rows.

    That are their smoothing (r, rows), and the rows (r,) and columns (W,) of the region that fall on the map.
    """

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.model, self.finish = exportable.model, exportable.finish
        self.output_names = [name for name in exportable.outputs if name in MAPS]

    def forward(
        self, scores: Tensor, smooth: Tensor, rows: Tensor, columns: Tensor, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Make maps (B, 1, r, W), and masks."""
        region, *decided = given
        looked = (region > 0).index_select(0, rows).index_select(1, columns)
        maps = anomaly_map(scores, smooth, self.model.smooth_right).masked_fill(~looked, 0)
        outputs = self.finish(scores.amax(-1), maps, *decided)
        return tuple(outputs[name] for name in self.output_names)


class DetectionGraph(nn.Module):
    """Both, one after the other: images and reference tensors -> the model's outputs."""

    def __init__(self, exportable: Exportable) -> None:
        super().__init__()
        self.encode, self.score = EncoderGraph(exportable), ScorerGraph(exportable)

    def forward(self, images: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        """Score images."""
        return self.score(self.encode(images)[-1], *given)[:-1]


class MiningGraph(nn.Module):
    """Tokens (a, M, C) and patch masks (a, M) of all abnormal references, normal bank (K, C) -> proxies (Q, C)."""

    def __init__(self, head: NaglHead, grid: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.grid = head, grid

    def forward(self, normal_bank: Tensor, abnormal_tokens: Tensor, abnormal_patch_mask: Tensor) -> Tensor:
        """Mine residual proxies."""
        abnormal, marked = abnormal_tokens[None], abnormal_patch_mask[None]
        return self.head.mine(abnormal, marked, normal_bank[None], None, self.grid)[0]


def trace_encoder(exportable: Exportable, path: Path, **options: Any) -> None:
    """Write ``EncoderGraph`` as an ONNX file; the number of images and their sizes are dynamic."""
    graph, (image, sizes) = EncoderGraph(exportable), _image(None)
    _trace(graph, (image,), ["image"], list(graph.markers), (sizes,), path, **options)


def trace_scorer(exportable: Exportable, path: Path, **options: Any) -> None:
    """Write ``ScorerGraph`` as an ONNX file; the number of images and sides of references that grow are dynamic."""
    graph, encoder = ScorerGraph(exportable), exportable.model.encoder
    tokens = torch.zeros(2, encoder.grid[0] * encoder.grid[1], encoder.dim)
    references, shapes = _references(exportable)
    names = ["tokens", *references]
    example = (tokens, *references.values())
    _trace(graph, example, names, list(graph.output_names), ({0: Dim("batch_size")}, shapes), path, **options)


def trace_detection(exportable: Exportable, path: Path, input_size: tuple[int, int] | None, **options: Any) -> None:
    """Write ``DetectionGraph`` as an ONNX file."""
    graph, (image, sizes) = DetectionGraph(exportable), _image(input_size)
    references, shapes = _references(exportable)
    names, example = ["input", *references], (image, *references.values())
    _trace(graph, example, names, list(exportable.outputs), (sizes, shapes), path, **options)


def trace_windowed(exportable: Exportable, folder: Path, **options: Any) -> None:
    """Write what loops are made of as ONNX: network, prepare, and, without proxies, patches and what follows.

    That is finish or, where pixels are finished each by itself, image and band.
    """
    model = exportable.model
    encoder, batch = model.encoder.network, Dim("batch_size")
    window, (image, sizes) = torch.zeros(2, 3, *encoder.image_size), _image(None)
    _trace(encoder, (window,), ["window"], ["tokens"], ({0: batch},), folder / "network.onnx", **options)
    _trace(exportable.prepare, (image,), ["resized"], ["prepared"], (sizes,), folder / "prepare.onnx", **options)
    if model.head.variant.proxies:
        return
    references, shapes = _references(exportable)
    sides, scores = dict(zip(references, shapes, strict=True)), torch.zeros(2, math.prod(model.encoder.grid))
    example = (torch.zeros(2, 9, model.encoder.dim), *(references[name] for name in PATCHWISE))
    dynamic: Any = ({0: batch, 1: Dim("patches")}, tuple(sides[name] for name in PATCHWISE))
    _trace(PatchGraph(exportable), example, ["tokens", *PATCHWISE], [RAW], dynamic, folder / "patches.onnx", **options)
    graph: Any = ImageGraph(exportable) if exportable.pixelwise else FinishGraph(exportable)
    given = (scores, *(references[name] for name in graph.names))
    names, dynamic = [SCORES, *graph.names], ({0: batch}, tuple(sides[name] for name in graph.names))
    path = folder / ("image.onnx" if exportable.pixelwise else "finish.onnx")
    _trace(graph, given, names, list(graph.output_names), dynamic, path, **options)
    if exportable.pixelwise:
        _trace_band(exportable, scores, given[1:], sides[REGION], folder / "band.onnx", **options)


def _trace_band(exportable: Exportable, scores: Tensor, given: Any, sides: Any, path: Path, **options: Any) -> None:
    """Write ``BandGraph`` of a row of patches."""
    graph, encoder = BandGraph(exportable), exportable.model.encoder
    side, width = encoder.patch_size, encoder.image_size[1]
    rows, columns = torch.zeros(side, dtype=torch.int64), torch.zeros(width, dtype=torch.int64)
    example = (scores, torch.zeros(side, encoder.grid[0]), rows, columns, *given)
    shapes = ({0: Dim("batch_size")}, None, None, None, (sides, None, None))
    names = [SCORES, "smooth", "rows", "columns", REGION, "thresholds", "scale"]
    _trace(graph, example, names, list(graph.output_names), shapes, path, **options)


def _image(input_size: tuple[int, int] | None) -> tuple[Tensor, dict[int, Any]]:
    """An example of an image and which of its sides are dynamic."""
    sizes = {0: Dim("batch_size"), **({} if input_size else {2: Dim("height"), 3: Dim("width")})}
    return torch.zeros(2, 3, *(input_size or (32, 40))), sizes


def _references(exportable: Exportable) -> tuple[dict[str, Tensor], tuple[Any, ...]]:
    """Examples of reference tensors and which of their sides are dynamic."""
    references = exportable.reference_tensors()
    growing = {tensor.name: 5 + 2 * i for i, tensor in enumerate(TENSORS) if tensor.grows}
    for name, rows in growing.items():
        references[name] = references[name].new_zeros(rows, *references[name].shape[1:])
    references[REGION] = references[REGION].new_ones(3, 4)
    shapes = {name: {0: Dim(f"{name}_patches")} for name in growing}
    shapes[REGION] = {0: Dim("region_rows"), 1: Dim("region_columns")}
    return references, tuple(shapes.get(name) for name in references)


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
    device = next(chain(graph.parameters(), graph.buffers()), torch.empty(0)).device
    torch.onnx.export(
        graph.eval(),
        torch.utils._pytree.tree_map(lambda tensor: tensor.to(device), example),
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes,
        **{"opset_version": OPSET, "external_data": False, "verbose": False, "dynamo": True, **options},
    )
