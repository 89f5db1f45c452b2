"""Resizing inside of OpenVINO graphs, of one part of an image at a time.

OpenVINO's own operator for PIL's filter prepares code for every pixel that it makes: at 2100 x 4500 pixels minutes and
gigabytes, at the first image. Here results are products of weights with the few rows, then the few columns, that they
depend on. The weights are computed in the graph, as images come in any size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_nagl.core.resizing import cubic_matrix
from anomalib_nagl.export.loops import Body, each, exact
from anomalib_nagl.io.windows import Size, pooling

LARGEST = 64  # results of one product: they depend on a narrow band of the image only
OF_OVERVIEW = 16  # the same for the overview, whose bands are several times as wide as its results


class Pieces(NamedTuple):
    """For each of N pieces of one axis of a resized image what it is made of; nodes of a graph.

    A piece is of K blocks of r results, each a sum of l sources. ``begin`` (N,) is the first source of a piece,
    ``length`` (1,) how many any piece reads, ``index`` (N, K * l) where in these the sources of its blocks are,
    ``weights`` (N, K, r, l).
    """

    begin: Any
    length: Any
    index: Any
    weights: Any


def block_of(side: int, largest: int = LARGEST) -> int:
    """How many results one product makes of a side."""
    return max(number for number in range(1, largest + 1) if side % number == 0)


def pieces(
    source: Any, target: int, first: NDArray[np.int64], pixels: int, mixed: NDArray[np.float32] | None = None
) -> Pieces:
    """The filter of ``core.resizing.cubic_matrix`` from ``source`` pixels, a node (1,), to ``target``.

    ``first`` (N, K) says with which of the resized pixels each block begins. Its results are so many pixels from there
    on or, with weights ``mixed`` (N * K, r, pixels), r sums of them.
    """
    from openvino import opset13 as ops

    longer = ops.maximum(source, _whole(target))
    taps = ops.divide((source * _whole(2 * pixels - 2)) + longer * _whole(8), _whole(2 * target))
    taps = ops.minimum(taps + _whole(3), source)
    lowest = _whole(2 * first + 1) * source - longer * _whole(4) - _whole(target)
    begin = ops.divide(ops.maximum(lowest, _whole(0)), _whole(2 * target))
    begin = ops.minimum(begin, source - taps)
    steps = ops.range(_whole(0), ops.squeeze(taps, _whole([0])), _whole(1), "i64")
    sources = ops.unsqueeze(begin, _whole([2])) + steps  # (N, K, l)
    start = ops.reduce_min(begin, _whole([1]), keep_dims=True)
    reach = ops.reduce_max(ops.reduce_max(begin, _whole([1]), keep_dims=True) - start, _whole([0]), keep_dims=False)
    length = reach + taps
    start = ops.minimum(start, source - length)  # (N, 1)
    index = sources - ops.unsqueeze(start, _whole([2]))
    index = ops.reshape(index, _whole([len(first), -1]), special_zero=False)
    weights = _weights(
        ops.reshape(sources, _whole([first.size, -1]), False), source, longer, target, first, pixels, mixed
    )
    return Pieces(*map(exact, (ops.squeeze(start, _whole([1])), length, index, weights)))


def _weights(
    sources: Any, source: Any, longer: Any, target: int, first: Any, pixels: int, mixed: NDArray[np.float32] | None
) -> Any:
    """Weights (N, K, r, l) of sources (N * K, l), computed one block after the other."""
    from openvino import opset13 as ops

    resized = _whole(first.reshape(-1, 1) + np.arange(pixels))

    def block(body: Body) -> Any:
        seen, made = ops.unsqueeze(body.sliced(sources), _whole([1])), ops.unsqueeze(body.sliced(resized), _whole([2]))
        weights = _cubic(seen, made, body.invariant(source), body.invariant(longer), target)
        if mixed is not None:
            weights = ops.matmul(body.sliced(ops.constant(mixed)), weights, False, False)
        return exact(weights)

    results = pixels if mixed is None else mixed.shape[1]
    return ops.reshape(each(block, "weights"), _whole([*first.shape, results, -1]), special_zero=False)


def _cubic(sources: Any, resized: Any, source: Any, longer: Any, target: int) -> Any:
    """Weights (N, m, l) of sources (N, 1, l) for resized pixels (N, m, 1)."""
    import openvino as ov
    from openvino import opset13 as ops

    here = (sources * _whole(2) + _whole(1)) * _whole(target)
    there = (resized * _whole(2) + _whole(1)) * source
    # As in torch: integers until the last division, then 32-bit floats.
    distance = ops.convert(ops.absolute(here - there), ov.Type.f32)
    distance = distance / ops.convert(longer * _whole(2), ov.Type.f32)
    distance = ops.minimum(distance, _real(2))  # where the filter is 0
    near = (_real(1.5) * distance - _real(2.5)) * distance * distance + _real(1)
    far = ((_real(-0.5) * distance + _real(2.5)) * distance - _real(4)) * distance + _real(2)
    weights = ops.select(ops.less(distance, _real(1)), near, far)
    return weights / ops.reduce_sum(weights, _whole([-1]), keep_dims=True)


def overview_blocks(size: Size, window: Size, axis: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """``first`` (K,) and ``mixed`` (K, r, m) of ``pieces`` for what ``WindowedEncoder.overview`` does with an axis.

    Pixels are averaged, then resized to the side of a window.
    """
    pooled, side = pooling(size, window)[axis], window[axis]
    count = size[axis] // pooled
    averaged = cubic_matrix(count, side, torch.zeros(1)).numpy().repeat(pooled, axis=1) / np.float32(pooled)
    blocks = averaged.reshape(-1, block_of(side, OF_OVERVIEW), count * pooled)
    used = (blocks != 0).any(axis=1)
    first, last = used.argmax(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1)
    reach = int((last - first).max())
    first = np.minimum(first, used.shape[1] - reach).astype(np.int64)
    return first, np.stack([block[:, begin : begin + reach] for block, begin in zip(blocks, first, strict=True)])


def inside(body: Body, given: Pieces) -> Pieces:
    """The same as inputs of what runs again and again."""
    return Pieces(*map(body.invariant, given))


def resampled(image: Any, place: Any, rows: Pieces, columns: Pieces, rounded: bool) -> Any:
    """A piece (1, 3, h, w) of a resized image; ``place`` (3,) says of which of images (B, 3, H, W), row and column.

    ``rounded`` rounds to 8 bits after each pass, as PIL does.
    """
    from openvino import opset13 as ops

    number, row, column = (ops.slice(place, _whole([i]), _whole([i + 1]), _whole([1])) for i in range(3))
    rows, columns = _chosen(rows, row), _chosen(columns, column)
    begin = ops.concat([number, rows.begin, columns.begin], 0)
    end = ops.concat([number + _whole([1]), rows.begin + rows.length, columns.begin + columns.length], 0)
    seen = ops.slice(image, begin, end, _whole([1, 1, 1]), _whole([0, 2, 3]))
    return resized(seen, rows, columns, rounded)


def _chosen(axis: Pieces, number: Any) -> Pieces:
    """One of the pieces (N = 1)."""
    from openvino import opset13 as ops

    begin, index, weights = (ops.gather(one, number, _whole(0)) for one in (axis.begin, axis.index, axis.weights))
    return Pieces(begin, axis.length, index, weights)


def resized(seen: Any, rows: Pieces, columns: Pieces, rounded: bool = False) -> Any:
    """One piece of both axes (N = 1), (B, 3, h, w), of the sources (B, 3, length, length) that it reads."""
    from openvino import opset13 as ops

    turned = _whole([0, 1, 3, 2])
    tall = _made(seen, rows, rounded)
    return ops.transpose(_made(ops.transpose(tall, turned), columns, rounded), turned)


def _made(seen: Any, axis: Pieces, rounded: bool) -> Any:
    """Results (B, 3, K * r, other) of one piece of an axis, from the sources (B, 3, length, other) that it reads."""
    from openvino import opset13 as ops

    _, blocks, results, _ = (side.get_max_length() for side in axis.weights.get_output_partial_shape(0))
    sources = ops.gather(seen, ops.squeeze(axis.index, _whole([0])), _whole(2))
    taps = ops.slice(ops.shape_of(axis.weights), _whole([3]), _whole([4]), _whole([1]))
    other = ops.slice(ops.shape_of(seen), _whole([3]), _whole([4]), _whole([1]))
    sources = ops.reshape(sources, ops.concat([_whole([-1, 3, blocks]), taps, other], 0), special_zero=False)
    made = ops.matmul(axis.weights, sources, False, False)
    made = ops.reshape(made, ops.concat([_whole([-1, 3, blocks * results]), other], 0), special_zero=False)
    if not rounded:
        return made
    levels = ops.round(made * _real(255), "half_to_even")
    return ops.clamp(levels, 0, 255) / _real(255)


def _whole(value: Any) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.asarray(value, np.int64))


def _real(value: float) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.float32(value))
