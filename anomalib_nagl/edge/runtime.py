"""Exported graphs in OpenVINO: references as inputs, and a fixed number of infer requests for any number of threads."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset13 as ops

from anomalib_nagl.edge.errors import EdgeError

# Constants of model.xml that are inputs on the box.
REPLACEABLE = ("normal_bank", "residual_proxies", "reference_kinds", "thresholds")


def read_graph(core: ov.Core, path: Path) -> ov.Model:
    """Read an exported graph; EdgeError if OpenVINO cannot."""
    try:
        return core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgeError(
            f"found a graph that OpenVINO cannot read: {path} ({reason}); export the model again"
        ) from error


def with_reference_inputs(model: ov.Model) -> ov.Model:
    """Turn the baked references of a detection graph into inputs of the same names.

    They are plain constants in the file, so that any program can use it; here they arrive with every request. Hence a
    request sees one set of references and never a mix.
    """
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for name in REPLACEABLE:
        if name not in nodes:
            raise EdgeError(f"found a model without the constant {name!r}, expected one that this package exported")
        node = nodes[name]
        shape = [-1, *list(node.output(0).shape)[1:]] if name == "normal_bank" else list(node.output(0).shape)
        parameter = ops.parameter(ov.PartialShape(shape), ov.Type.f32, name=f"{name}_input")
        parameter.output(0).set_names({name})
        node.output(0).set_names(set())
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(parameter.output(0))
        model.add_parameters([parameter])
    model.validate_nodes_and_infer_types()
    return model


def part_of(model: ov.Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ov.Model:
    """The part of a file of several graphs that computes ``outputs`` from ``inputs``."""
    return ov.Model(
        [ops.result(model.output(name).get_node().input_value(0)) for name in outputs],
        [model.input(name).get_node() for name in inputs],
        "-".join(outputs),
    )


class Requests:
    """Infer requests of one compiled graph, lent to one thread at a time."""

    def __init__(self, compiled: ov.CompiledModel, count: int) -> None:
        self.compiled = compiled
        self._free: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(compiled.create_infer_request())

    def infer(self, inputs: Mapping[str, ov.Tensor]) -> dict[str, Any]:
        """Run the graph, waiting for a free request; outputs by name, copied."""
        with self._borrow() as request:
            for name, tensor in inputs.items():
                request.set_tensor(name, tensor)
            request.infer()
            return copied_outputs(request, self.compiled)

    @contextmanager
    def _borrow(self) -> Iterator[ov.InferRequest]:
        request = self._free.get()
        try:
            yield request
        finally:
            self._free.put(request)


def copied_outputs(request: ov.InferRequest, compiled: ov.CompiledModel) -> dict[str, Any]:
    """Outputs of a finished request by name; the request may run again at once."""
    return {port.any_name: request.get_tensor(port).data.copy() for port in compiled.outputs}
