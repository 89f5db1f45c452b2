"""Exported graphs in OpenVINO: read, looked at, compiled.

Images are resized before they reach a graph (``edge.resizing``): for every new shape OpenVINO prepares its operators
anew and keeps what it prepared, so a graph that is given images as they come needs more and more memory. A graph with
windows resizes each of them itself, by products whose preparation is small: it grows by little with every new shape.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import openvino as ov
from openvino import opset13 as ops

from anomalib_nagl.edge.resizing import resize
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.windows import WINDOWS

FACTS = "anomalib_nagl"  # under this name a graph says which images it takes
FEW_SHAPES = {"CPU_RUNTIME_CACHE_CAPACITY": 32}  # OpenVINO's own number is 5,000
BATCHES = ("image", "tokens")  # inputs whose first side is the number of images, here always 1
Size = tuple[int, int]


def shared_core() -> ov.Core:
    """The core of all detectors of this process, which stays: one that ends may take a signal stack in use along."""
    return _core_of(os.getpid())


@functools.cache
def _core_of(process: int) -> ov.Core:
    """A forked process has not the threads of its parent's, and makes its own."""
    return ov.Core()


def read_graph(core: ov.Core, path: Path) -> ov.Model:
    """Read an exported graph; EdgeError if OpenVINO cannot."""
    try:
        return core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgeError(
            f"found a graph that OpenVINO cannot read: {path} ({reason}), expected an exported one: export it again"
        ) from error


class Images(NamedTuple):
    """What a graph says of its input ``image``: the size (H, W) to resize to, how, and the only one that it takes."""

    resize: Size | None = None
    rounded: bool = False
    only: Size | None = None

    @classmethod
    def of(cls, model: ov.Model) -> Images:
        """Read it."""
        if not model.has_rt_info(FACTS):
            return cls()
        found = {name: str(value.astype(str)) for name, value in model.get_rt_info(FACTS).astype(dict).items()}
        return cls(_size(found.get("resize")), found.get("rounded") == "1", _size(found.get("input_size")))

    def prepared(self, image: ov.Tensor) -> ov.Tensor:
        """An image (1, 3, H, W) as the graph is given it; EdgeError if it has another size than the only one."""
        size = (image.shape[2], image.shape[3])
        if self.only not in (None, size):
            raise EdgeError(
                f"found an image of size {size}, expected {self.only}: the model was exported for images of one size; "
                "hand over such, or export it again without an input size"
            )
        return image if self.resize is None else ov.Tensor(resize(image.data[0], self.resize, self.rounded)[None])


def _size(text: str | None) -> Size | None:
    if text is None:
        return None
    height, width = map(int, text.split())
    return height, width


class CompiledGraph(NamedTuple):
    """A graph on a device, and what it says of images."""

    model: ov.CompiledModel
    images: Images


def compile_graph(core: ov.Core, model: ov.Model, device: str, config: Mapping[str, Any]) -> CompiledGraph:
    """Compile a graph; EdgeError if there is no such device, or if it cannot compute as ``config`` asks.

    The folder ``CACHE_DIR`` is made if it is not there; EdgeError where it cannot be written.
    """
    if "CACHE_DIR" in config:
        _check_cache(Path(config["CACHE_DIR"]))
    try:
        return CompiledGraph(_compile(core, model, device, config), Images.of(model))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EdgeError(
            f"found no way to compile the model for device {device!r} with {dict(config)} ({reason}), expected one of "
            f"{', '.join(core.available_devices)}: choose another device, or precision None"
        ) from error


def _compile(core: ov.Core, model: ov.Model, device: str, config: Mapping[str, Any]) -> ov.CompiledModel:
    """Compile a graph; on the CPU, one whose inputs come in many shapes keeps what it prepared for the last few."""
    sides = (side for port in model.inputs for side in list(port.partial_shape)[port.any_name in BATCHES :])
    if device == "CPU" and any(side.is_dynamic for side in sides):
        try:
            return core.compile_model(model, device, {**config, **FEW_SHAPES})
        except RuntimeError:  # no documented property: a release may do without it
            pass
    return core.compile_model(model, device, dict(config))


def _check_cache(folder: Path) -> None:
    """Raise EdgeError unless files can be written into a folder; OpenVINO says nothing of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EdgeError(
            f"found a cache folder that cannot be written: {folder} ({error.strerror}), expected one for compiled "
            "graphs: choose another cache, or none"
        ) from error


def part_of(model: ov.Model, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> ov.Model:
    """The part of a file of several graphs that computes ``outputs`` from ``inputs``."""
    part = ov.Model(
        [ops.result(model.output(name).get_node().input_value(0)) for name in outputs],
        [model.input(name).get_node() for name in inputs],
        "-".join(outputs),
    )
    if model.has_rt_info(FACTS):
        part.set_rt_info(model.get_rt_info(FACTS), FACTS)
    return part


def windows_of(model: ov.Model) -> ov.Model:
    """The part of an encoder that sees windows, some of them: image, which (n,) -> windows (n, m, c).

    Windows are numbered as they are planned (``io.windows``), and the overview after the last.
    """
    every = next(node for node in model.get_ordered_ops() if node.get_friendly_name() == WINDOWS)
    loop = next(node for node in _after(every) if node.get_type_name() == "TensorIterator")
    which = ops.parameter([-1], ov.Type.i64, name="which")
    which.output(0).set_names({"which"})
    for target in list(every.output(0).get_target_inputs()):
        target.replace_source_output(which.output(0))
    result = ops.result(loop.output(0))
    result.output(0).set_names({"windows"})
    part = ov.Model([result], [model.input("image").get_node(), which], "windows")
    if model.has_rt_info(FACTS):
        part.set_rt_info(model.get_rt_info(FACTS), FACTS)
    return part


def _after(node: ov.Node) -> Iterator[ov.Node]:
    """What is computed from a node, step by step; what it leads to in several ways comes several times."""
    for target in node.output(0).get_target_inputs():
        yield target.get_node()
        yield from _after(target.get_node())
