"""OpenVINO graphs of models with windows: loops that see one window, and compare one block of patches, at a time.

Loops cannot be traced from torch; what is inside of them is. They are OpenVINO's own operator, so any program that
reads the file runs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anomalib_nagl.export.graphs import RAW, SCORES
from anomalib_nagl.io.windows import FINE, between, pooling

COMPARED = 2048  # patches that are compared at once
SMALLEST = 1e-12  # length of a token below which it stays as it is, as in torch


def windowed_encoder(encoder: Any, network: Any, prepare: Any, resizes: bool) -> Any:
    """The graph of ``EncoderGraph`` for an encoder with windows: image (B, 3, H, W) -> markers, tokens (B, M, C) last.

    ``network`` encodes a window (B, 3, h, w) -> (B, m, c), ``prepare`` makes the network input of a resized image; it
    is resized here where the model ``resizes``.
    """
    import openvino as ov
    from openvino import opset13 as ops

    height, width = encoder.image_size
    image = ops.parameter([-1, 3, -1, -1], ov.Type.f32, name="image")
    image.output(0).set_names({"image"})
    resized = _resized(image, (height, width)) if resizes else image
    prepared = _appended(prepare, resized)
    prepared = ops.reshape(prepared, np.array([-1, 3, height, width]), special_zero=False)
    seen, corners = prepared, encoder.plan.corners
    if encoder.cut.overview:  # below the image, so that one loop sees both
        averaged = list(pooling(encoder.image_size, encoder.window))
        whole = ops.avg_pool(prepared, averaged, [0, 0], [0, 0], averaged, True)
        whole = _resized(whole, encoder.window)
        beside = np.array([0, 0, 0, width - encoder.window[1]])
        whole = ops.pad(whole, np.zeros(4, np.int64), beside, "constant", np.float32(0))
        seen = ops.concat([prepared, whole], 2)
        corners = np.concatenate([corners, [[height, 0]]])
    tokens = _stitched(encoder, _each_window(network, seen, corners, encoder.window))
    markers = {"resized": resized, "prepared": prepared, "tokens": tokens}
    return ov.Model([_result(markers[name], name) for name in list(markers)[not resizes :]], [image], "encoder")


def _resized(image: Any, size: tuple[int, int]) -> Any:
    """Images (B, 3, H, W) at a size by PIL's antialiased bicubic filter, as in torch."""
    from openvino import opset11

    axes, sides = np.array([2, 3], np.int64), np.array(size, np.int64)
    return opset11.interpolate(image, sides, "bicubic_pillow", "sizes", axes=axes, cube_coeff=-0.5)


def _each_window(network: Any, seen: Any, corners: Any, window: tuple[int, int]) -> Any:
    """Tokens (N, B, m, c) of the windows of images (B, 3, H, W) at ``corners`` (N, 2), one window after the other."""
    import openvino as ov
    from openvino import opset13 as ops

    whole = ops.parameter(seen.get_output_partial_shape(0), ov.Type.f32, name="seen")
    corner = ops.parameter([1, 2], ov.Type.i64, name="corner")
    begin = ops.squeeze(corner, np.array([0]))
    end = ops.add(begin, np.array(window, np.int64))
    cut = ops.slice(whole, begin, end, np.array([1, 1], np.int64), np.array([2, 3], np.int64))
    cut = ops.reshape(cut, np.array([-1, 3, *window]), special_zero=False)
    found = _result(ops.unsqueeze(_appended(network, cut), np.array([0])), "window")
    loop = ops.tensor_iterator()
    loop.set_body(ov.Model([found], [whole, corner], "window"))
    loop.set_sliced_input(corner, ops.constant(np.asarray(corners, np.int64)).output(0), 0, 1, 1, -1, 0)
    loop.set_invariant_input(whole, seen.output(0))
    return loop.get_concatenated_slices(found.output(0), 0, 1, 1, -1, 0).get_node()


def _stitched(encoder: Any, found: Any) -> Any:
    """``WindowedEncoder.stitch`` of tokens (N, B, m, c), those of the overview last."""
    from openvino import opset13 as ops

    (rows, cols), (inner_rows, inner_cols), width = encoder.grid, encoder.plan.inner, encoder.base.dim
    every = ops.transpose(found, np.array([1, 0, 2, 3]))
    every = ops.reshape(every, np.array([0, -1, width]), special_zero=True)
    fine = ops.gather(every, encoder.plan.source, np.int64(1))
    if not encoder.cut.overview:
        return fine
    first = len(encoder.plan.corners) * inner_rows * inner_cols
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


def blockwise_scorer(patches: Any, finish: Any, cells: int) -> Any:
    """The graph of ``ScorerGraph``, which compares ``COMPARED`` patches at a time.

    ``patches`` scores patches (B, P, C) of any number by reference tensors, each patch by itself; ``finish`` makes the
    outputs of the scores of all ``cells`` patches of an image.
    """
    import openvino as ov
    from openvino import opset13 as ops

    finish = finish.clone()
    for node in patches.get_ordered_ops():  # names of their own: those that compare are told from those that encode
        node.set_friendly_name(f"patches/{node.get_friendly_name()}")
    inner = patches.input("tokens").get_node()
    width = inner.get_output_partial_shape(0)[2].get_length()
    tokens = ops.parameter([-1, cells, width], ov.Type.f32, name="tokens")
    tokens.output(0).set_names({"tokens"})
    missing = -cells % COMPARED
    padded = ops.pad(tokens, np.zeros(3, np.int64), np.array([0, missing, 0]), "constant", np.float32(0))
    scores, references = finish.input(SCORES).get_node(), _references(patches, finish)
    used = {name: node for name, node in _parameters(patches).items() if node.output(0).get_target_inputs()}
    loop = ops.tensor_iterator()
    loop.set_body(ov.Model(patches.get_results(), list(used.values()), "patches"))
    loop.set_sliced_input(inner, padded.output(0), 0, COMPARED, COMPARED, -1, 1)
    for name in used.keys() & references.keys():
        loop.set_invariant_input(used[name], references[name].output(0))
    found = loop.get_concatenated_slices(patches.get_results()[0].output(0), 0, COMPARED, COMPARED, -1, 1)
    begin, end, axis = (np.array([number], np.int64) for number in (0, cells, 1))
    kept = ops.slice(found, begin, end, np.array([1], np.int64), axis)
    kept = ops.reshape(kept, np.array([-1, cells]), special_zero=False)
    for target in list(scores.output(0).get_target_inputs()):
        target.replace_source_output(kept.output(0))
    return ov.Model([*finish.get_results(), _result(kept, RAW)], [tokens, *references.values()], "scorer")


def _parameters(model: Any) -> dict[str, Any]:
    """Inputs of a graph by name."""
    return {port.any_name: port.get_node() for port in model.inputs}


def _references(patches: Any, finish: Any) -> dict[str, Any]:
    """Inputs of the whole scorer beside tokens: those of its end, and new ones that its loop reads."""
    import openvino as ov
    from openvino import opset13 as ops

    found = {name: node for name, node in _parameters(finish).items() if name != SCORES}
    for name, node in _parameters(patches).items():
        if name != "tokens" and name not in found:
            found[name] = ops.parameter(node.get_output_partial_shape(0), ov.Type.f32, name=name)
            found[name].output(0).set_names({name})
    return found


def _appended(model: Any, given: Any) -> Any:
    """What a copy of a graph of one input makes of a node."""
    copy = model.clone()
    parameter = copy.get_parameters()[0]
    for target in list(parameter.output(0).get_target_inputs()):
        target.replace_source_output(given.output(0))
    return copy.get_results()[0].input_value(0).get_node()


def _result(node: Any, name: str) -> Any:
    from openvino import opset13 as ops

    result = ops.result(node)
    result.output(0).set_names({name})
    node.output(0).add_names({name})
    return result
