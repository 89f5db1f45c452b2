"""What is traced for export: graphs whose references are inputs, so that they can be baked now and replaced later."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from anomalib_nagl.core.functional import anomaly_map, image_score, mask_to_grid
from anomalib_nagl.core.head import NaglHead
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.resizing import mask_to_input

OPSET = 18  # has every operator of the graphs; asking for less makes the exporter convert, fail and complain
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
MARKERS = ("prepared", "tokens")  # where the encoder begins and ends, for whoever compresses it
THRESHOLDS = ("_image_threshold", "_pixel_threshold")  # buffers of anomalib's post-processor


class ReferenceTensors(NamedTuple):
    """All that a query needs to know of the references, and of what has been decided about them.

    The bank (K, C) of normal patches, the residual proxies (Q, C) and the patches (D, C) of known defects, zeros
    without abnormal pictures, 0/1 (2,): are there normal, and abnormal pictures, and the raw thresholds (2,) of image
    scores and of pixels.
    """

    normal_bank: Tensor
    residual_proxies: Tensor
    defect_bank: Tensor
    reference_kinds: Tensor
    thresholds: Tensor

    @classmethod
    def of(cls, nagl: Any) -> ReferenceTensors:
        """Those of a ``Nagl`` model."""
        model: NaglModel = nagl.model
        proxies, defects = model.residual_proxies, model.defect_bank
        if not len(proxies):
            proxies = proxies.new_zeros(model.head.learnable_proxies.weight.shape)
            defects = proxies[:1]
        normal, abnormal = len(model.reference_images) > len(model.reference_masks), len(model.reference_masks) > 0
        buffers = dict(nagl.post_processor.named_buffers()) if nagl.post_processor else {}
        thresholds = [float(buffers.get(name, torch.tensor(torch.nan))) for name in THRESHOLDS]
        return cls(
            model.normal_bank.cpu(),
            proxies.cpu(),
            defects.cpu(),
            torch.tensor([normal, abnormal]).float(),
            torch.tensor(thresholds),
        )


class DetectionGraph(nn.Module):
    """Pictures (B, 3, H, W) of any size in [0, 1] and ``ReferenceTensors`` -> anomalib's outputs, then ``MARKERS``.

    The markers are the network input (B, 3, h, w) and its patch tokens (B, M, C).
    """

    def __init__(self, nagl: Any) -> None:
        super().__init__()
        self.nagl = nagl

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs; a model without thresholds has no label and no mask."""
        processor = self.nagl.post_processor
        thresholding = bool(processor) and processor.enable_thresholding
        return [*(OUTPUTS if thresholding else OUTPUTS[::2]), *MARKERS]

    def forward(
        self,
        images: Tensor,
        normal_bank: Tensor,
        residual_proxies: Tensor,
        defect_bank: Tensor,
        reference_kinds: Tensor,
        thresholds: Tensor,
    ) -> tuple[Tensor, ...]:
        """Score pictures as ``Nagl`` does, whatever references there are."""
        model: NaglModel = self.nagl.model
        prepared = self.nagl.pre_processor(images) if self.nagl.pre_processor else images
        tokens = model.encoder(prepared)
        score = _score(model, tokens, (normal_bank, residual_proxies, defect_bank), reference_kinds)
        found = InferenceBatch(
            pred_score=image_score(score), anomaly_map=anomaly_map(score, model.smooth_down, model.smooth_right)
        )
        if self.nagl.post_processor:
            values = {name: thresholds[i] for i, name in enumerate(THRESHOLDS)}
            found = functional_call(self.nagl.post_processor, values, (found,))
        outputs = {**found._asdict(), "prepared": prepared, "tokens": tokens}
        return tuple(outputs[name] for name in self.output_names)


def _score(model: NaglModel, tokens: Tensor, learned: tuple[Tensor, Tensor, Tensor], kinds: Tensor) -> Tensor:
    """Patch scores (B, M); the case is chosen by value, where ``NaglHead.detect`` chooses it by shape."""
    bank, proxies, defects = (part[None] for part in learned)
    maps = model.head.detect(tokens, bank, proxies, model.encoder.grid, defects)
    fused = maps.score
    if model.head.quirks.overwritten_normal:
        fused = torch.where(kinds[0] > 0, fused, maps.abnormal_similarity)
    return torch.where(kinds[1] > 0, fused, 1 - maps.normal_similarity)


class MiningGraph(nn.Module):
    """Mask (1, H, W) of any size -> its marked patches (1, M); tokens and marks of all references -> their proxies."""

    def __init__(self, head: NaglHead, grid: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.grid, self.size = head, grid, size

    def forward(self, mask: Tensor, normal_bank: Tensor, abnormal_tokens: Tensor, abnormal_marks: Tensor) -> Any:
        """Mark patches, and mine bank (K, C), tokens (a, M, C) and marks (a, M) for residual proxies (Q, C)."""
        resized = mask_to_input(mask[0], self.size)
        marks = mask_to_grid(resized[None, None], self.grid, self.head.quirks.shifted_grid)[0]
        proxies = self.head.mine(abnormal_tokens[None], abnormal_marks[None], normal_bank[None], None, self.grid)
        return marks, proxies[0]


def trace_detection(nagl: Any, path: Path, input_size: tuple[int, int] | None, **options: Any) -> None:
    """Write ``DetectionGraph`` as an ONNX file; batch, bank and, without ``input_size``, picture sizes are dynamic."""
    graph = DetectionGraph(nagl)
    image = torch.zeros(2, 3, *(input_size or (32, 40)))
    sizes = {0: Dim("batch_size"), **({} if input_size else {2: Dim("height"), 3: Dim("width")})}
    references = ReferenceTensors.of(nagl)
    example = references._replace(
        normal_bank=references.normal_bank[:1].expand(7, -1), defect_bank=references.defect_bank[:1].expand(5, -1)
    )
    shapes = (sizes, {0: Dim("patches")}, None, {0: Dim("defects")}, None, None)
    _trace(graph, (image, *example), ["input", *ReferenceTensors._fields], graph.output_names, shapes, path, **options)


def trace_mining(nagl: Any, path: Path) -> None:
    """Write ``MiningGraph`` as an ONNX file; the sizes of mask and bank and the number of pictures are dynamic."""
    model: NaglModel = nagl.model
    grid, head = model.encoder.grid, model.head
    patches = grid[0] * grid[1]
    example = (
        torch.zeros(1, 30, 40),
        torch.zeros(7, head.dim),
        torch.zeros(2, patches, head.dim),
        torch.zeros(2, patches),
    )
    count = Dim("pictures")
    shapes = ({1: Dim("height"), 2: Dim("width")}, {0: Dim("patches")}, {0: count}, {0: count})
    names = ["mask", "normal_bank", "abnormal_tokens", "abnormal_marks"]
    graph = MiningGraph(head, grid, model.encoder.image_size)
    _trace(graph, example, names, ["marks", "residual_proxies"], shapes, path)


def _trace(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    shapes: Any,
    path: Path,
    **options: Any,
) -> None:
    device = next(graph.parameters()).device
    torch.onnx.export(
        graph.eval(),
        tuple(tensor.to(device) for tensor in example),
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes,
        **{"opset_version": OPSET, "external_data": False, "verbose": False, "dynamo": True, **options},
    )
