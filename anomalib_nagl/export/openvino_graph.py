"""Exported graphs after tracing: compressed, with their references baked in, as OpenVINO and ONNX files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_nagl.export.graphs import MARKERS, RAW
from anomalib_nagl.export.loops import PRECISE
from anomalib_nagl.io.precise_layers import mark_precise

Arrays = Mapping[str, NDArray[Any]]
CALIBRATION = 300  # images; what anomalib and NNCF recommend
SCORER = "scorer/"  # begins the names of what compares, in a joined graph


def bake_onnx(path: Path, constants: Arrays, image: str = "input") -> None:
    """Turn reference inputs of an ONNX file into constants and drop the markers: one input, anomalib's outputs."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
    for values, dropped in ((graph.input, set(constants)), (graph.output, set(MARKERS))):
        kept = [value for value in values if value.name not in dropped]
        del values[:]
        values.extend(kept)
    for node in graph.node:
        node.input[:] = [image if name == "input" else name for name in node.input]
    graph.input[0].name = image
    onnx.checker.check_model(model)
    onnx.save(model, path)


def bake(model: Any, constants: Arrays) -> None:
    """The same for an OpenVINO graph, in place; the constants keep their names, by which the box finds them."""
    from openvino import opset13 as ops

    for name, value in constants.items():
        parameter = model.input(name).get_node()
        constant = ops.constant(np.ascontiguousarray(value), name=name)
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(constant.output(0))
        model.remove_parameter(parameter)
    for port in list(model.outputs):
        if port.get_names() & set(MARKERS):
            model.remove_result(port.get_node())
    model.validate_nodes_and_infer_types()


def join(encoder: Any, scorer: Any) -> Any:
    """One detection graph of copies of both: input (images) and references -> outputs, then ``MARKERS``."""
    import openvino as ov

    encoder, scorer = encoder.clone(), scorer.clone()
    for node in scorer.get_ordered_ops():  # both were traced, with the same names
        node.set_friendly_name(f"{SCORER}{node.get_friendly_name()}")
    image, tokens = encoder.input("image"), scorer.input("tokens").get_node()
    image.set_names({"input"})
    made = encoder.output("tokens").get_node().input_value(0)
    for target in list(tokens.output(0).get_target_inputs()):
        target.replace_source_output(made)
    references = [node for node in scorer.get_parameters() if node.get_friendly_name() != tokens.get_friendly_name()]
    results = [result for result in scorer.get_results() if RAW not in result.output(0).get_names()]
    return ov.Model([*results, *encoder.get_results()], [image.get_node(), *references], "detection")


def encoder_graph(detection: Any, facts: Mapping[str, str]) -> Any:
    """The encoder of a detection graph alone: image (B, 3, H, W) -> tokens (B, M, C).

    It begins where images have been resized, if the graph has a marker there, and takes images of any size otherwise.
    ``facts`` say in the graph which images it takes (``edge.runtime``).
    """
    import openvino as ov
    from openvino import opset13 as ops

    graph = detection.clone()
    image = graph.input("input").get_node()
    if MARKERS[0] in marked(graph):
        given, resized = image.output(0), graph.output(MARKERS[0]).get_node().input_value(0)
        image = ops.parameter(resized.get_partial_shape(), ov.Type.f32, name="image")
        for value in (given, resized):  # the number of images may still be read from what was given
            for target in list(value.get_target_inputs()):
                target.replace_source_output(image.output(0))
    image.output(0).set_names({"image"})
    encoder = ov.Model([graph.output("tokens").get_node()], [image], "encoder")
    for name, value in facts.items():
        encoder.set_rt_info(value, ["anomalib_nagl", name])
    return encoder


def marked(model: Any) -> set[str]:
    """The markers among the outputs of a graph."""
    return {name for port in model.outputs for name in port.get_names()} & set(MARKERS)


def fix_size(model: Any, size: tuple[int, int] | None) -> None:
    """Let a graph take images of one size (H, W) only, in place; the number of images stays dynamic."""
    import openvino as ov

    if size is not None:
        model.reshape({"input": ov.PartialShape([-1, 3, *size])})


def references_graph(mining: Any, encoder: Any | None) -> Any:
    """``references.xml``: what runs when references change.

    normal_bank, abnormal_tokens and abnormal_patch_mask of all images give residual_proxies; with an ``encoder``,
    which is exact where that of queries is compressed, image gives tokens. The two halves share nothing.
    """
    import openvino as ov

    halves = [mining] if encoder is None else [encoder, mining]
    results = [result for half in halves for result in half.get_results()]
    graph = ov.Model(results, [node for half in halves for node in half.get_parameters()], "references")
    if encoder is not None and encoder.has_rt_info("anomalib_nagl"):
        graph.set_rt_info(encoder.get_rt_info("anomalib_nagl"), "anomalib_nagl")
    return graph


def outside_encoder(model: Any) -> list[str]:
    """Names of all operators that are not part of the encoder: they resize or compare, and must stay exact."""
    encoder = _ancestors(model.output("tokens"))
    if "prepared" in marked(model):
        encoder -= _ancestors(model.output("prepared"))
    return [name for name in names(model) if name not in encoder or name.startswith(PRECISE)]


def names(model: Any) -> list[str]:
    """Names of all operators, those inside of loops too."""
    return [name for node in model.get_ordered_ops() for name in _names_of(node)]


def _names_of(node: Any) -> list[str]:
    inside = names(node.get_body()) if node.get_type_name() == "TensorIterator" else []
    return [node.get_friendly_name(), *inside]


def _ancestors(output: Any) -> set[str]:
    seen: set[str] = set()
    waiting = [output.get_node().input_value(0).get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in seen:
            seen.update(_names_of(node))
            waiting += [node.input_value(i).get_node() for i in range(node.get_input_size())]
    return seen


def halve(model: Any, folder: Path) -> Any:
    """Keep the weights of a graph as 16-bit floats; what is baked in later stays exact."""
    import openvino as ov

    ov.save_model(model, folder / "half.xml", compress_to_fp16=True)
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})  # a mapped file could not be deleted on Windows
    return core.read_model(folder / "half.xml")


def compress_weights(model: Any, exact: list[str]) -> Any:
    """Keep the weights of the encoder as 8-bit integers, but for its first and its depthwise convolutions.

    These have few weights, and rounding them costs most: without the exception maps of MobileNetV2 move nine times as
    far.
    """
    import nncf

    kept = exact + _of_type(model, "Convolution")[:1] + _of_type(model, "GroupConvolution")
    with _quiet():
        return nncf.compress_weights(model, ignored_scope=nncf.IgnoredScope(names=kept, validate=False))


def quantise(model: Any, exact: list[str], images: Iterable[Any], constants: Arrays, transformer: bool) -> Any:
    """Let the encoder compute in 8-bit integers but for depthwise convolutions, calibrated with images (3, H, W)."""
    import nncf

    kept = exact + _of_type(model, "GroupConvolution")
    inputs = {name: np.ascontiguousarray(value) for name, value in constants.items()}
    data = nncf.Dataset(list(images), lambda image: {"input": image[None], **inputs})
    with _quiet(), explained("the encoder", "another compression"):
        return nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=CALIBRATION,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )


def _of_type(model: Any, kind: str) -> list[str]:
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == kind]


@contextmanager
def explained(part: str, remedy: str) -> Iterator[None]:
    """Say that a part of a model cannot be quantised: NNCF and OpenVINO speak of checks in their own code."""
    try:
        yield
    except (RuntimeError, IndexError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(
            f"found that NNCF cannot quantise {part} of this model ({reason}), expected a graph that it can: choose "
            f"{remedy}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what NNCF says of every operator that it leaves alone."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def save(model: Any, path: Path, exact: Iterable[str] = ()) -> None:
    """Write an OpenVINO graph; operators named ``exact`` compute in f32 even where the device prefers less."""
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)
    mark_precise(path, exact)
