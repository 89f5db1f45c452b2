"""What a box was taught, written back into the one file that any OpenVINO program reads; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from anomalib_nagl.edge.runtime import read_graph
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import companion, renew_files
from anomalib_nagl.io.files import atomic_files
from anomalib_nagl.io.precise_layers import mark_precise, precise_layers


def bake(model: Path, out: Path, arrays: Mapping[str, NDArray[np.float32]]) -> Path:
    """Write a copy of ``model`` whose constants are these arrays to ``out`` (``.xml``) and the ``.bin`` beside it.

    Both files are put there after they are whole. Over the model itself, its manifest is renewed too. Returns the path;
    EdgeError for a file that was not exported with such constants, and for a name that is no ``.xml``.
    """
    if out.suffix != ".xml":
        raise EdgeError(
            f"found {out}, expected a name that ends in .xml: two files are written, the other ends in .bin"
        )
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})  # a mapped file cannot be replaced on Windows
    graph = read_graph(core, model)
    nodes = {node.get_friendly_name(): node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant"}
    known = sorted(set(arrays) & set(nodes))
    wanted = set(arrays) & _compared(model) if known else set(arrays)
    if missing := sorted(wanted - set(known)):
        raise EdgeError(
            f"found no constants {', '.join(missing)} in {model}, expected those of an export: export the model again"
        )
    for name in known:
        array = arrays[name]
        constant = ops.constant(np.ascontiguousarray(array, np.float32), name=name)
        for target in list(nodes[name].output(0).get_target_inputs()):
            target.replace_source_output(constant.output(0))
    graph.validate_nodes_and_infer_types()

    def write(folder: Path) -> Path:
        written = folder / out.name
        ov.save_model(graph, written, compress_to_fp16=False)
        mark_precise(written, precise_layers(model))
        return written

    written = atomic_files(out.parent, write)
    manifest = model.with_suffix(".json")
    if manifest.is_file() and out.resolve() == model.resolve():
        renew_files(manifest, [out, out.with_suffix(".bin")])
    return written


def _compared(model: Path) -> set[str]:
    """What the scorer beside a model reads: a graph has no constant of what its variant leaves alone."""
    inputs = read_graph(ov.Core(), companion(model, "scorer")).inputs
    return {name for port in inputs if port.get_node().output(0).get_target_inputs() for name in port.get_names()}
