"""OpenVINO graphs put together: one behind another, and one that runs again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PRECISE = "precise/"  # begins the names of operators that stay exact, though they are a part of the encoder


class Body:
    """What runs again and again: nodes from outside become its inputs."""

    def __init__(self) -> None:
        self._inputs: list[tuple[Any, Any, bool]] = []

    def sliced(self, node: Any) -> Any:
        """An input that is one part (1, ...) of a node (N, ...) after the other; there are N runs."""
        return self._input(node, True)

    def invariant(self, node: Any) -> Any:
        """An input that stays the same."""
        return self._input(node, False)

    def _input(self, node: Any, sliced: bool) -> Any:
        import openvino as ov
        from openvino import opset13 as ops

        shape = ov.PartialShape(list(node.get_output_partial_shape(0)))
        if sliced:
            shape[0] = ov.Dimension(1)
        found = ops.parameter(shape, node.get_output_element_type(0))
        self._inputs.append((found, node, sliced))
        return found

    def loop(self, made: Any, name: str) -> Any:
        """The loop of a body whose result is ``made`` (1, ...): results of all runs (N, ...)."""
        import openvino as ov
        from openvino import opset13 as ops

        result = ops.result(made)
        loop = ops.tensor_iterator()
        loop.set_body(ov.Model([result], [found for found, _, _ in self._inputs], name))
        for found, node, sliced in self._inputs:
            if sliced:
                loop.set_sliced_input(found, node.output(0), 0, 1, 1, -1, 0)
            else:
                loop.set_invariant_input(found, node.output(0))
        return loop.get_concatenated_slices(result.output(0), 0, 1, 1, -1, 0).get_node()


def each(make: Callable[[Body], Any], name: str) -> Any:
    """The loop of what ``make`` makes of a body."""
    body = Body()
    return body.loop(make(body), name)


def exact(node: Any) -> Any:
    """The node, after the names of all that it is made of say that they stay exact, as far as its graph goes."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        name = one.get_friendly_name()
        if one.get_type_name() in ("Parameter", "Constant") or name.startswith(PRECISE):
            continue
        one.set_friendly_name(f"{PRECISE}{name}")
        waiting += [one.input_value(i).get_node() for i in range(one.get_input_size())]
    return node


def appended(model: Any, given: Any) -> Any:
    """What a copy of a graph of one input makes of a node."""
    copy = model.clone()
    parameter = copy.get_parameters()[0]
    for target in list(parameter.output(0).get_target_inputs()):
        target.replace_source_output(given.output(0))
    return copy.get_results()[0].input_value(0).get_node()


def named_result(output: Any, name: str) -> Any:
    """A result of a graph, under a name."""
    from openvino import opset13 as ops

    result = ops.result(output)
    result.output(0).set_names({name})
    output.add_names({name})
    return result
