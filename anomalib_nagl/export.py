"""Export to ONNX and OpenVINO: anomalib's own, with a check, quieter defaults and no half-written files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib.models.components.base.export_mixin import ExportMixin

from anomalib_nagl.manifest import embed_manifest

OPSET = 18  # has every operator of the graph; asking for less makes the exporter convert, fail and complain


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
        """Write ``weights/onnx/NAME.onnx``, one file with pre- and post-processing; RuntimeError without references."""
        self._check_references()
        kwargs = {"opset_version": OPSET, "external_data": False, "verbose": False, **kwargs}
        write = super().to_onnx
        return _in_one_step(
            export_root, lambda root: self._recorded(write(root, model_file_name, input_size, **kwargs))
        )

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Write ``weights/openvino/NAME.xml`` and ``.bin``; RuntimeError without references."""
        self._check_references()
        write = super().to_openvino
        return _in_one_step(export_root, lambda root: self._recorded(write(root, *args, **kwargs)))

    def _recorded(self, written: Path) -> Path:
        """Put the record of the references into the metadata of a file."""
        embed_manifest(written, getattr(self, "manifest", {}))
        return written

    def _check_references(self) -> None:
        if not getattr(self.model, "has_references", False):
            raise RuntimeError(
                "found a model without references, expected some before it is exported: run `anomalib train`, then "
                "export its checkpoint with --ckpt_path"
            )


def _in_one_step(export_root: Path | str, write: Callable[[Path], Path]) -> Path:
    """Let ``write`` fill a temporary folder, then move its files into place, weights before the graph."""
    root = Path(export_root)
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".export-") as temporary:
        written = write(Path(temporary))
        folder = root / written.parent.relative_to(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(written.parent.iterdir(), key=lambda path: path == written):
            os.replace(file, folder / file.name)
    return folder / written.name
