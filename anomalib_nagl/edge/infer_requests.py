"""A fixed number of infer requests of a compiled graph, for any number of threads.

Whoever needs one while none is free takes over one that runs by itself: it waits for its end, keeps its answer for
whoever started it, and goes on with the request. So nobody waits for somebody who waits: an iterator of images may ask
the detector that it feeds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import openvino as ov

from anomalib_nagl.edge.runtime import CompiledGraph

Outputs = dict[str, Any]


class _Job:
    """A request that runs by itself, and its answer once somebody has waited for it."""

    def __init__(self, request: ov.InferRequest) -> None:
        self.request = request
        self._outputs: Outputs = {}
        self._error: Exception | None = None
        self._done = threading.Event()

    def end(self, outputs_of: Callable[[ov.InferRequest], Outputs]) -> ov.InferRequest:
        """Wait for the request, keep its answer, and return it for another use."""
        try:
            self.request.wait()
            self._outputs = outputs_of(self.request)
        except Exception as error:  # it is told to whoever asks for the answer
            self._error = error
        self._done.set()
        return self.request

    def answer(self) -> Outputs:
        """What it computed, once that was kept."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._outputs


class Requests:
    """Infer requests of one compiled graph, each lent to one thread at a time."""

    def __init__(self, graph: CompiledGraph, count: int) -> None:
        self._compiled, self._images = graph
        self._free = [self._compiled.create_infer_request() for _ in range(count)]
        self._running: deque[_Job] = deque()
        self._change = threading.Condition()  # of both

    def infer(self, inputs: Mapping[str, ov.Tensor]) -> Outputs:
        """Run the graph, waiting for a request; outputs by name, copied. EdgeError as of ``Images.prepared``."""
        inputs = self._prepared(inputs)
        request = self._borrow()
        try:
            _fill(request, inputs)
            request.infer()
            return self._outputs(request)
        finally:
            self._give_back(request)

    def stream(self, many: Iterable[Mapping[str, ov.Tensor]]) -> Iterator[Outputs]:
        """Run the graph on one set of inputs after the other, as many at once as there are free requests; in order.

        Plain asynchronous requests: OpenVINO's queue of them calls back into Python from threads of its own, and was
        seen to abort the process when it went away just after its last call.
        """
        running: deque[_Job] = deque()
        try:
            for inputs in map(self._prepared, many):
                while (request := self._take_free()) is None and running:
                    yield self._finish(running)
                running.append(self._start(request or self._borrow(), inputs))
            while running:
                yield self._finish(running)
        finally:
            for job in running:
                self._end(job)

    def _prepared(self, inputs: Mapping[str, ov.Tensor]) -> Mapping[str, ov.Tensor]:
        return {**inputs, "image": self._images.prepared(inputs["image"])} if "image" in inputs else inputs

    def _start(self, request: ov.InferRequest, inputs: Mapping[str, ov.Tensor]) -> _Job:
        try:
            _fill(request, inputs)
            request.start_async()
        except BaseException:
            self._give_back(request)
            raise
        job = _Job(request)
        with self._change:
            self._running.append(job)
            self._change.notify()
        return job

    def _finish(self, running: deque[_Job]) -> Outputs:
        """The answer of the oldest."""
        job = running.popleft()
        self._end(job)
        return job.answer()

    def _end(self, job: _Job) -> None:
        """Give the request of a job back, unless somebody else took it over."""
        with self._change:
            mine = job in self._running
            if mine:
                self._running.remove(job)
        if mine:
            self._give_back(job.end(self._outputs))

    def _take_free(self) -> ov.InferRequest | None:
        with self._change:
            return self._free.pop() if self._free else None

    def _borrow(self) -> ov.InferRequest:
        with self._change:
            # Others than these are in the hands of threads that need nothing more to give them back.
            while not self._free and not self._running:
                self._change.wait()
            if self._free:
                return self._free.pop()
            job = self._running.popleft()
        return job.end(self._outputs)

    def _give_back(self, request: ov.InferRequest) -> None:
        with self._change:
            self._free.append(request)
            self._change.notify()

    def _outputs(self, request: ov.InferRequest) -> Outputs:
        return {port.any_name: request.get_tensor(port).data.copy() for port in self._compiled.outputs}


def _fill(request: ov.InferRequest, inputs: Mapping[str, ov.Tensor]) -> None:
    for port in request.model_inputs:
        request.set_tensor(port, inputs[port.any_name])
