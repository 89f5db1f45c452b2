"""The OpenVINO scorer of models with windows: it compares a block of patches, and makes a band of maps, at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anomalib_nagl.export.graphs import INSIDE, MAPS, RAW, REGION, SCORES
from anomalib_nagl.export.loops import named_result

COMPARED = 2048  # patches that are compared at once
OWN = ("smooth", "rows", "columns")  # inputs of ``BandGraph`` that are no references
Nodes = dict[str, Any]


def blockwise_scorer(parts: Mapping[str, Any], smooth: Any, patch: int) -> Any:
    """The graph of ``ScorerGraph``, of its traced ``parts``.

    ``patches`` scores patches (B, P, C) of any number by reference tensors, each patch by itself. What follows is
    ``finish``, which makes the outputs of the scores of all patches, or ``image``, for those of whole images, and
    ``band``, for rows of maps. ``smooth`` (H, rows) enlarges and blurs columns of maps, whose patches have ``patch``
    pixels.
    """
    import openvino as ov
    from openvino import opset13 as ops

    for name, part in parts.items():  # names of their own: those that compare are told from those that encode
        for node in part.get_ordered_ops():
            node.set_friendly_name(f"{name}/{node.get_friendly_name()}")
    patches, last = parts["patches"], parts.get("image") or parts["finish"]
    references, cells = _references(*parts.values()), last.input(SCORES).get_partial_shape()[1].get_length()
    width = patches.input("tokens").get_partial_shape()[2].get_length()
    tokens = ops.parameter([-1, cells, width], ov.Type.f32, name="tokens")
    tokens.output(0).set_names({"tokens"})
    missing = -cells % COMPARED
    padded = ops.pad(tokens, np.zeros(3, np.int64), np.array([0, missing, 0]), "constant", np.float32(0))
    (found,) = _looped(patches, {"tokens": (padded, COMPARED)}, references, 1).values()
    begin, end, axis = (np.array([number], np.int64) for number in (0, cells, 1))
    kept = ops.slice(found, begin, end, np.array([1], np.int64), axis)
    kept = ops.reshape(kept, np.array([-1, cells]), special_zero=False)
    outputs = _followed(last, {**references, SCORES: kept})
    if "band" in parts:
        outputs |= _banded(parts["band"], {**references, SCORES: outputs.pop(INSIDE).get_node()}, smooth, patch)
    ordered = sorted(outputs, key=["pred_score", "pred_label", *MAPS].index)
    results = [named_result(outputs[name], name) for name in ordered]
    return ov.Model([*results, named_result(kept.output(0), RAW)], [tokens, *references.values()], "scorer")


def _banded(band: Any, given: Nodes, smooth: Any, patch: int) -> Nodes:
    """Maps (B, 1, H, W) and masks, a row of patches at a time."""
    from openvino import opset13 as ops

    columns = band.input("columns").get_partial_shape()[0].get_length()
    shape = ops.shape_of(given[REGION])
    rows, right = (_stretched(shape, axis, size) for axis, size in enumerate((len(smooth), columns)))
    sliced = {"smooth": (ops.constant(smooth), patch), "rows": (rows, patch)}
    return _looped(band, sliced, {**given, "columns": right}, 0, 2)


def _stretched(shape: Any, axis: int, size: int) -> Any:
    """``core.interest.stretched`` along one axis."""
    from openvino import opset13 as ops

    side = ops.slice(shape, np.array([axis]), np.array([axis + 1]), np.array([1]))
    return ops.divide(ops.multiply(ops.constant(np.arange(size)), side), ops.constant(np.int64(size)))


def _followed(part: Any, given: Nodes) -> Nodes:
    """Outputs of a graph whose inputs are nodes of another, by name."""
    for port in part.inputs:
        for target in list(port.get_target_inputs()):
            target.replace_source_output(given[port.any_name].output(0))
    return {port.any_name: port.get_node().input_value(0) for port in part.outputs}


def _looped(
    part: Any, sliced: Mapping[str, tuple[Any, int]], given: Nodes, axis: int, joined: int | None = None
) -> Nodes:
    """Outputs of a graph that sees so many of ``sliced`` inputs along an axis at a time, and the others as a whole.

    They are put together along the axis ``joined``, the same unless given.
    """
    import openvino as ov
    from openvino import opset13 as ops

    read = {port.any_name: port.get_node() for port in part.inputs if port.get_target_inputs()}
    names = [port.any_name for port in part.outputs]
    loop = ops.tensor_iterator()
    loop.set_body(ov.Model(part.get_results(), list(read.values()), "block"))
    for name, (node, size) in sliced.items():
        loop.set_sliced_input(read.pop(name), node.output(0), 0, size, size, -1, axis)
    for name, node in read.items():
        loop.set_invariant_input(node, given[name].output(0))
    side, put = next(size for _, size in sliced.values()), axis if joined is None else joined
    results = [result.output(0) for result in part.get_results()]
    outputs = [loop.get_concatenated_slices(result, 0, side, side, -1, put) for result in results]
    return dict(zip(names, outputs, strict=True))


def _references(*parts: Any) -> Nodes:
    """Inputs of the whole scorer beside tokens, which its parts read."""
    import openvino as ov
    from openvino import opset13 as ops

    found: Nodes = {}
    for port in (port for part in parts for port in part.inputs):
        name = port.any_name
        if name not in ("tokens", SCORES, *OWN) and name not in found:
            found[name] = ops.parameter(port.get_partial_shape(), ov.Type.f32, name=name)
            found[name].output(0).set_names({name})
    return found
