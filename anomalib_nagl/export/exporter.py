"""Export to ONNX and OpenVINO: anomalib's commands, our graphs, and no half-written files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.deploy.export import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin

from anomalib_nagl.bank.bank_file import write_pack
from anomalib_nagl.encoders import VitEncoder
from anomalib_nagl.export import openvino_graph
from anomalib_nagl.export.companions import facts_of, pack_of
from anomalib_nagl.export.graphs import ReferenceTensors, trace_detection, trace_mining
from anomalib_nagl.io.export_manifest import write_export_manifest
from anomalib_nagl.io.files import atomic_write_bytes, file_hash
from anomalib_nagl.references.record import embed_manifest

logger = logging.getLogger(__name__)
_SETTLED = ("dynamic_axes", "dynamic_shapes", "output_names")


class SafeExport(ExportMixin):
    """Refuses to export a model without references, and writes files in one step."""

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Write ``weights/torch/NAME.pt``; RuntimeError without references."""
        self._check_references()
        write = super().to_torch
        return _in_one_step(export_root, lambda root: write(root, model_file_name))

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Write ``weights/onnx/NAME.onnx``, one file with pre- and post-processing and the references.

        ``kwargs`` go to ``torch.onnx.export``. RuntimeError without references, ValueError for sizes in ``kwargs``:
        batch and, without ``input_size``, height and width are always dynamic.
        """
        self._check_references()
        (image,) = kwargs.pop("input_names", ["input"])
        if refused := sorted(set(_SETTLED) & set(kwargs)):
            raise ValueError(
                f"found {', '.join(refused)}, expected none of them: give input_size for pictures of a size"
            )

        def write(root: Path) -> Path:
            path = _folder(root, "onnx") / f"{model_file_name}.onnx"
            trace_detection(_still(self), path, input_size, **kwargs)
            openvino_graph.bake_onnx(path, _arrays(self), image)
            embed_manifest(path, getattr(self, "manifest", {}))
            return path

        return _in_one_step(export_root, write)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: Any = None,
        metric: Any = None,
        task: Any = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Write ``weights/openvino/NAME.xml`` and ``.bin``, and beside them what ``NaglEdge`` needs.

        That is the manifest ``NAME.json``, ``references.xml`` with its ``.bin``, and ``references.safetensors``.
        ``INT8`` compresses the weights of the encoder, ``INT8_PTQ`` quantises the encoder, calibrated with
        ``datamodule``; the comparison with the references stays as it is. ``INT8_ACQ`` is anomalib's own, of the whole
        graph. RuntimeError without references, ValueError without a ``datamodule`` where one is needed.
        """
        self._check_references()
        if datamodule is None and compression_type in (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ):
            raise ValueError(
                f"found {compression_type} without data to calibrate with, expected a datamodule: add --data"
            )

        def write(root: Path) -> Path:
            path = _folder(root, "openvino") / f"{model_file_name}.xml"
            with TemporaryDirectory() as temporary:
                detection, mining = self._graphs(Path(temporary), input_size, ov_kwargs or {}, onnx_kwargs or {})
                openvino_graph.save(
                    openvino_graph.references_graph(detection, mining), path.with_name("references.xml")
                )
                exact = openvino_graph.outside_encoder(detection)
                model = self._compressed(detection, compression_type, exact, datamodule, Path(temporary))
                openvino_graph.bake(model, _arrays(self))
                if compression_type == CompressionType.INT8_ACQ:
                    model = self._compress_ov_model(model, compression_type, datamodule, metric, task, max_drop)
                openvino_graph.save(model, path, exact)
            embed_manifest(path, getattr(self, "manifest", {}))
            _write_companions(self, path)
            return path

        _keep_taught(Path(export_root) / "weights/openvino" / f"{model_file_name}.json")
        return _in_one_step(export_root, write)

    def _compressed(self, model: Any, kind: CompressionType | None, exact: list[str], data: Any, folder: Path) -> Any:
        """The detection graph with its encoder made smaller, while the references are still inputs."""
        if kind == CompressionType.FP16:
            return openvino_graph.halve(model, folder)
        if kind == CompressionType.INT8:
            return openvino_graph.compress_weights(model, exact)
        if kind == CompressionType.INT8_PTQ:
            transformer = isinstance(self.model.encoder, VitEncoder)
            return openvino_graph.quantise(
                model, exact, openvino_graph.calibration_pictures(data), _arrays(self), transformer
            )
        return model

    def _graphs(
        self, folder: Path, input_size: tuple[int, int] | None, ov_kwargs: dict[str, Any], onnx_kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Detection and mining graph in OpenVINO, their references still inputs."""
        import openvino as ov

        trace_detection(_still(self), folder / "detection.onnx", input_size, **onnx_kwargs)
        trace_mining(self, folder / "mining.onnx")
        return ov.convert_model(folder / "detection.onnx", **ov_kwargs), ov.convert_model(folder / "mining.onnx")

    def _check_references(self) -> None:
        if not getattr(self.model, "has_references", False):
            raise RuntimeError(
                "found a model without references, expected some before it is exported: run `anomalib train`, then "
                "export its checkpoint with --ckpt_path"
            )


def _still(nagl: Any) -> Any:
    """The model in evaluation mode."""
    return nagl.eval()


def _arrays(nagl: Any) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in ReferenceTensors.of(nagl)._asdict().items()}


def _write_companions(nagl: Any, path: Path) -> None:
    """Write what ``NaglEdge`` needs beside a model: the references themselves, and what must not change."""
    references = path.with_name("references.xml")
    write_pack(path.with_name("references.safetensors"), pack_of(nagl))
    exported = {"references": file_hash(path.with_name("references.safetensors"))}
    files = [graph.with_suffix(suffix) for graph in (path, references) for suffix in (".xml", ".bin")]
    write_export_manifest(path.with_suffix(".json"), files, facts_of(nagl) | exported)


def _keep_taught(manifest: Path) -> None:
    """Copy a reference pack that was changed since its export, before another export takes its place."""
    pack = manifest.with_name("references.safetensors")
    if not manifest.is_file() or not pack.is_file():
        return
    if json.loads(manifest.read_bytes()).get("references") != file_hash(pack):
        kept = pack.with_name("references.taught.safetensors")
        atomic_write_bytes(kept, pack.read_bytes())
        logger.warning("References were changed at %s after its export: they are kept in %s.", pack, kept)


def _folder(root: Path, kind: str) -> Path:
    """Where anomalib writes exports of a kind."""
    folder = root / "weights" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _in_one_step(export_root: Path | str, write: Callable[[Path], Path]) -> Path:
    """Let ``write`` fill a temporary folder, then move its files into place, the one it names last."""
    root = Path(export_root)
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".export-") as temporary:
        written = write(Path(temporary))
        folder = root / written.parent.relative_to(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(written.parent.iterdir(), key=lambda path: path == written):
            os.replace(file, folder / file.name)
    return folder / written.name
