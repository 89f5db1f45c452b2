"""Exported graphs in OpenVINO, and a fixed number of infer requests of each for any number of threads."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset13 as ops

from anomalib_nagl.io.errors import EdgeError


def read_graph(core: ov.Core, path: Path) -> ov.Model:
    """Read an exported graph; EdgeError if OpenVINO cannot."""
    try:
        return core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgeError(
            f"found a graph that OpenVINO cannot read: {path} ({reason}), expected an exported one: export it again"
        ) from error


def compile_graph(core: ov.Core, model: ov.Model, device: str, config: Mapping[str, Any]) -> ov.CompiledModel:
    """Compile a graph; EdgeError if there is no such device, or if it cannot compute as ``config`` asks."""
    try:
        return core.compile_model(model, device, dict(config))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgeError(
            f"found no way to compile the model for device {device!r} with {dict(config)} ({reason}), expected one of "
            f"{', '.join(core.available_devices)}: choose another device, or precision None"
        ) from error


def part_of(model: ov.Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ov.Model:
    """The part of a file of several graphs that computes ``outputs`` from ``inputs``."""
    return ov.Model(
        [ops.result(model.output(name).get_node().input_value(0)) for name in outputs],
        [model.input(name).get_node() for name in inputs],
        "-".join(outputs),
    )


class Requests:
    """Infer requests of one compiled graph, each lent to one thread at a time."""

    def __init__(self, compiled: ov.CompiledModel, count: int) -> None:
        self._compiled = compiled
        self._free: queue.LifoQueue[ov.InferRequest] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(compiled.create_infer_request())

    def infer(self, inputs: Mapping[str, ov.Tensor]) -> dict[str, Any]:
        """Run the graph, waiting for a free request; outputs by name, copied."""
        request = self._free.get()
        try:
            _fill(request, inputs)
            request.infer()
            return self._outputs(request)
        finally:
            self._free.put(request)

    def stream(self, many: Iterable[Mapping[str, ov.Tensor]]) -> Iterator[dict[str, Any]]:
        """Run the graph on one set of inputs after the other, as many at once as there are free requests; in order.

        Plain asynchronous requests: OpenVINO's queue of them calls back into Python from threads of its own, and was
        seen to abort the process when it went away just after its last call.
        """
        running: deque[ov.InferRequest] = deque()
        try:
            for inputs in many:
                # Waiting while holding requests could be for another thread that does the same.
                while (request := self._take(wait=not running)) is None:
                    yield self._finish(running)
                running.append(request)
                _fill(request, inputs)
                request.start_async()
            while running:
                yield self._finish(running)
        finally:
            while running:
                running[0].wait()
                self._free.put(running.popleft())

    def _take(self, wait: bool) -> ov.InferRequest | None:
        try:
            return self._free.get(block=wait)
        except queue.Empty:
            return None

    def _finish(self, running: deque[ov.InferRequest]) -> dict[str, Any]:
        """Wait for the oldest request, give it back, and return its outputs."""
        running[0].wait()
        outputs = self._outputs(running[0])
        self._free.put(running.popleft())
        return outputs

    def _outputs(self, request: ov.InferRequest) -> dict[str, Any]:
        return {port.any_name: request.get_tensor(port).data.copy() for port in self._compiled.outputs}


def _fill(request: ov.InferRequest, inputs: Mapping[str, ov.Tensor]) -> None:
    for port in request.model_inputs:
        request.set_tensor(port, inputs[port.any_name])
