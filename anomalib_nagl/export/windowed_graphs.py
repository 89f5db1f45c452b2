"""OpenVINO graphs of models with windows: loops that see one window, and compare one block of patches, at a time.

Loops cannot be traced from torch; what is inside of them is. They are OpenVINO's own operator, so any program that
reads the file runs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anomalib_nagl.export.loops import Body, appended, each, exact, named_result
from anomalib_nagl.export.window_resizing import Pieces, block_of, inside, overview_blocks, pieces, resampled
from anomalib_nagl.io.windows import FINE, WINDOWS, between

SMALLEST = 1e-12  # length of a token below which it stays as it is, as in torch


def windowed_encoder(encoder: Any, network: Any, prepare: Any, resize: Any) -> Any:
    """The graph of ``EncoderGraph`` for an encoder with windows: image (B, 3, H, W) -> tokens (B, M, C).

    ``network`` encodes a window (B, 3, h, w) -> (B, m, c), ``prepare`` makes its input of a resized image, pixel by
    pixel. ``resize`` is how the model does (``MatrixResize``): each window is resized by itself, so that no other image
    of full size is ever there. Where it is None, ``prepare`` makes the input of the whole image.
    """
    import openvino as ov
    from openvino import opset13 as ops

    image = ops.parameter([-1, 3, -1, -1], ov.Type.f32, name="image")
    image.output(0).set_names({"image"})
    seen = image if resize is not None else appended(prepare, image)
    rounded = resize is not None and resize.rounded
    rows, columns = (_window_pieces(encoder, seen, axis) for axis in range(2))
    tops, lefts = (sorted(set(side)) for side in encoder.plan.corners.T.tolist())
    places = [[tops.index(top), lefts.index(left), 0] for top, left in encoder.plan.corners.tolist()]
    whole = _overview(encoder, seen) if encoder.cut.overview else None
    if whole is not None:
        places.append([0, 0, 1])
    every = ops.constant(np.arange(len(places)), name=WINDOWS)
    listed = _in_each_image(seen, ops.gather(ops.constant(np.array(places)), every, np.int64(0)))

    def window(body: Body) -> Any:
        place, images = body.sliced(listed), body.invariant(seen)
        place = ops.reshape(place, np.array([4]), special_zero=False)
        cut = resampled(images, place, inside(body, rows), inside(body, columns), rounded)
        cut = ops.reshape(cut, np.array([1, 3, *encoder.window]), special_zero=False)
        if whole is not None:
            number = ops.slice(place, np.array([0]), np.array([1]), np.array([1]))
            instead = ops.gather(body.invariant(whole), number, np.int64(0))
            chosen = ops.slice(place, np.array([3]), np.array([4]), np.array([1]))
            cut = ops.select(ops.greater(chosen, ops.constant(np.int64(0))), instead, cut)
        return appended(network, exact(cut if resize is None else appended(prepare, cut)))

    tokens = _stitched(encoder, each(window, "window"))
    return ov.Model([named_result(tokens.output(0), "tokens")], [image], "encoder")


def _window_pieces(encoder: Any, image: Any, axis: int) -> Pieces:
    """Rows or columns of an image that windows begin with, each in blocks."""
    side, starts = encoder.window[axis], np.unique(encoder.plan.corners[:, axis])
    block = block_of(side)
    first = starts[:, None] + np.arange(0, side, block)
    return pieces(_side(image, axis), encoder.image_size[axis], first, block)


def _overview(encoder: Any, image: Any) -> Any:
    """``WindowedEncoder.overview`` of images (B, 3, H, W) of any size, (B, 3, h, w), a band of rows at a time."""
    from openvino import opset13 as ops

    (height, width), found = encoder.window, []
    for axis in range(2):
        first, mixed = overview_blocks(encoder.image_size, encoder.window, axis)
        bands = len(first) if axis == 0 else 1  # rows band by band, the columns of a band all at once
        found.append(
            pieces(_side(image, axis), encoder.image_size[axis], first.reshape(bands, -1), mixed.shape[2], mixed)
        )
    rows, columns = found
    bands = rows.begin.get_output_partial_shape(0)[0].get_length()
    listed = _in_each_image(image, ops.constant(np.arange(bands)[:, None] * [1, 0]))

    def band(body: Body) -> Any:
        place = ops.reshape(body.sliced(listed), np.array([3]), special_zero=False)
        return exact(resampled(body.invariant(image), place, inside(body, rows), inside(body, columns), False))

    made = ops.reshape(each(band, "band"), np.array([-1, bands, 3, height // bands, width]), special_zero=False)
    made = ops.transpose(made, np.array([0, 2, 1, 3, 4]))
    return ops.reshape(made, np.array([-1, 3, height, width]), special_zero=False)


def _in_each_image(images: Any, places: Any) -> Any:
    """Places (n, k), nodes, of each of images (B, ...) in turn, (B * n, 1 + k) with the number of the image first."""
    from openvino import opset13 as ops

    images, shape = ops.shape_of(images), ops.shape_of(places)
    count, listed = _part(images, 0), _part(shape, 0)
    numbers = ops.range(ops.constant(np.int64(0)), ops.squeeze(count, np.array([0])), ops.constant(np.int64(1)), "i64")
    one = ops.constant(np.array([1]))
    numbers = ops.reshape(numbers, np.array([-1, 1, 1]), special_zero=False)
    numbers = ops.broadcast(numbers, ops.concat([count, listed, one], 0))
    places = ops.broadcast(places, ops.concat([count, shape], 0))
    width = 1 + places.get_output_partial_shape(0)[2].get_length()
    return exact(ops.reshape(ops.concat([numbers, places], 2), np.array([-1, width]), special_zero=False))


def _side(image: Any, axis: int) -> Any:
    """Height or width of images (B, 3, H, W), a node (1,)."""
    from openvino import opset13 as ops

    return _part(ops.shape_of(image), 2 + axis)


def _part(shape: Any, place: int) -> Any:
    from openvino import opset13 as ops

    return ops.slice(shape, np.array([place]), np.array([place + 1]), np.array([1]))


def _stitched(encoder: Any, found: Any) -> Any:
    """``WindowedEncoder.stitch`` of tokens (B * N, m, c) of windows; of an image an overview is the last."""
    from openvino import opset13 as ops

    (rows, cols), (inner_rows, inner_cols), width = encoder.grid, encoder.plan.inner, encoder.base.dim
    first = len(encoder.plan.corners) * inner_rows * inner_cols
    every = first + encoder.cut.overview * inner_rows * inner_cols
    every = ops.reshape(found, np.array([-1, every, width]), special_zero=False)
    fine = ops.gather(every, encoder.plan.source, np.int64(1))
    if not encoder.cut.overview:
        return fine
    coarse = ops.gather(every, first + np.arange(inner_rows * inner_cols), np.int64(1))
    coarse = ops.reshape(_unit(coarse), np.array([0, inner_rows, inner_cols, width]), special_zero=True)
    coarse = ops.matmul(ops.constant(between(inner_cols, cols)), coarse, False, False)
    coarse = ops.reshape(coarse, np.array([0, inner_rows, cols * width]), special_zero=True)
    coarse = ops.matmul(ops.constant(between(inner_rows, rows)), coarse, False, False)
    coarse = ops.reshape(coarse, np.array([0, rows * cols, width]), special_zero=True)
    parts = ((FINE, fine), (1 - FINE, coarse))
    return ops.concat([ops.multiply(_unit(part), np.float32(share**0.5)) for share, part in parts], 2)


def _unit(tokens: Any) -> Any:
    from openvino import opset13 as ops

    length = ops.reduce_l2(tokens, np.array([-1]), keep_dims=True)
    return ops.divide(tokens, ops.maximum(length, np.float32(SMALLEST)))
