"""anomalib's export commands with our graphs behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from anomalib.data import InferenceBatch
from anomalib.deploy.export import CompressionType
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.post_processing import MEBinPostProcessor, PostProcessor
from torch import Tensor, nn
from torch.func import functional_call

from anomalib_nagl.bank.scale import Scale
from anomalib_nagl.export.exportable import Exportable, Outputs
from anomalib_nagl.export.exporter import Compression, Options, write_onnx, write_openvino
from anomalib_nagl.io.files import atomic_files
from anomalib_nagl.plugin.post_processing import ReferencePostProcessor, known_thresholds
from anomalib_nagl.plugin.pre_processing import NaglPreProcessor
from anomalib_nagl.plugin.run_folder import export_folder, tell_export

OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
KINDS = ("image", "pixel")
SCALE = ("{}_min", "_{}_threshold", "{}_max")  # buffers of anomalib's post-processor: what makes its scale
CALIBRATION = 300  # images; what anomalib and NNCF recommend
METHODS = {CompressionType.FP16: "fp16", CompressionType.INT8: "int8", CompressionType.INT8_PTQ: "int8_ptq"}


class CompressionRequest(NamedTuple):
    """What anomalib's command line says about compressing a file; ``metric``, ``task`` and ``max_drop`` of INT8_ACQ."""

    kind: CompressionType | None = None
    datamodule: Any = None
    metric: Any = None
    task: Any = None
    max_drop: float = 0.01


class Finish(nn.Module):
    """anomalib's post-processor as an exported graph runs it: its scale and the thresholds on it are inputs."""

    def __init__(self, post_processor: nn.Module | None) -> None:
        super().__init__()
        self.post_processor = post_processor

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs; without a threshold of images there is no label, without one of pixels no mask."""
        known = known_thresholds(self.post_processor)
        left_out = {"pred_label": not known.image, "pred_mask": not known.pixel}
        return tuple(name for name in OUTPUTS if not left_out.get(name))

    @property
    def pixelwise(self) -> bool:
        """Whether maps may be finished in parts; of a post-processor of somebody else's nothing is known."""
        return type(self.post_processor) in (type(None), PostProcessor, ReferencePostProcessor)

    @property
    def thresholds(self) -> tuple[float, float]:
        """The thresholds of images and pixels on the scale; NaN where there is none."""
        known = known_thresholds(self.post_processor)
        image, pixel = (
            1.0 - float(getattr(self.post_processor, f"{kind}_sensitivity", 0.5)) if there else math.nan
            for kind, there in zip(KINDS, known, strict=True)
        )
        return image, pixel

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """The scales of images and pixels that act; NaN where there is none."""
        # Those that act: anomalib takes the one threshold for the other where only one was found.
        image, pixel = (
            Scale(*(float(getattr(self.post_processor, name.format(kind).lstrip("_"), math.nan)) for name in SCALE))
            for kind in KINDS
        )
        return image, pixel

    def forward(self, pred_score: Tensor, anomaly_map: Tensor, thresholds: Tensor, scale: Tensor) -> Outputs:
        """Scores, labels and masks on the scale (2, 3) of scores and maps, by thresholds (2,) on it."""
        found = InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)
        if self.post_processor is not None:
            own = dict(self.post_processor.named_buffers())
            values = {name.format(kind): scale[i, j] for i, kind in enumerate(KINDS) for j, name in enumerate(SCALE)}
            given = {name: value for name, value in values.items() if name in own}
            found = functional_call(self.post_processor, given, (found,))
            found = self._decided(found, thresholds)
        return {name: value for name, value in found._asdict().items() if value is not None}

    def _decided(self, found: InferenceBatch, thresholds: Tensor) -> InferenceBatch:
        """Labels and masks by the thresholds that are given, where the post-processor makes them by its own."""
        if not isinstance(self.post_processor, PostProcessor):
            return found
        label, mask = found.pred_label, found.pred_mask
        if label is not None and found.pred_score is not None:
            label = found.pred_score > thresholds[0]
        if (
            mask is not None
            and found.anomaly_map is not None
            and not isinstance(self.post_processor, MEBinPostProcessor)
        ):
            mask = found.anomaly_map > thresholds[1]
        return found._replace(pred_label=label, pred_mask=mask)


def exportable(nagl: Any) -> Exportable:
    """All that is exported of a ``Nagl``, which is put in evaluation mode; RuntimeError without references."""
    finish = Finish(nagl.post_processor or None)
    pre_processor = nagl.pre_processor or nn.Identity()
    resize, prepare = pre_processor.steps if isinstance(pre_processor, NaglPreProcessor) else (None, pre_processor)
    return Exportable(
        model=nagl.eval().model,
        prepare=prepare,
        resize=resize,
        finish=finish,
        outputs=finish.outputs,
        thresholds=finish.thresholds,
        scales=finish.scales,
        calibration=dict(getattr(nagl.post_processor, "calibration", {})),
        variant=str(nagl.hparams["variant"]),
        head_trained=nagl.head_trained,
        pixelwise=finish.pixelwise,
        bank_limit=nagl.bank_limit,
        entries=nagl.references,
        record=nagl.manifest,
    )


def weights_folder(export_root: Path | str, kind: str) -> Path:
    """Where anomalib writes exports of a kind."""
    return Path(export_root) / "weights" / kind


def calibration_images(datamodule: Any) -> Iterator[Any]:
    """Up to ``CALIBRATION`` validation images (3, H, W), the set that anomalib calibrates with."""
    datamodule.setup("fit")
    left = CALIBRATION
    for batch in datamodule.val_dataloader():
        for image in batch.image[:left]:
            yield image.numpy()
            left -= 1
        if left <= 0:
            return


def to_torch(nagl: Any, export_root: Path | str, name: str) -> Path:
    """Write ``weights/torch/NAME.pt``; RuntimeError without references."""
    exportable(nagl)
    write = partial(ExportMixin.to_torch, nagl)
    folder = weights_folder(export_folder(export_root, nagl.checkpoint_file), "torch")
    return tell_export(atomic_files(folder, lambda place: write(place, name)))


def to_onnx(
    nagl: Any, export_root: Path | str, name: str, input_size: tuple[int, int] | None, arguments: dict[str, Any]
) -> Path:
    """Write ``weights/onnx/NAME.onnx``; ``arguments`` go to ``torch.onnx.export``. Errors as of ``write_onnx``."""
    path = weights_folder(export_folder(export_root, nagl.checkpoint_file), "onnx") / f"{name}.onnx"
    return tell_export(write_onnx(exportable(nagl), path, Options(input_size, arguments)))


def to_openvino(nagl: Any, export_root: Path | str, name: str, options: Options, request: CompressionRequest) -> Path:
    """Write ``weights/openvino/NAME.xml`` and what ``NaglEdge`` needs (``write_openvino``).

    ``INT8`` compresses the weights of the encoder, ``INT8_PTQ`` quantises the encoder; ``INT8_ACQ`` is anomalib's own,
    of the whole graph. RuntimeError without references, ValueError without data where it is needed.
    """
    ready = exportable(nagl)
    kind, data = request.kind, request.datamodule
    if data is None and kind in (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ):
        raise ValueError(f"found {kind} without data to calibrate with, expected a datamodule: add --data")
    whole = None
    if kind == CompressionType.INT8_ACQ:
        arguments = (kind, data, request.metric, request.task, request.max_drop)
        whole = lambda model: nagl._compress_ov_model(model, *arguments)  # noqa: E731  # anomalib's own step
    images = calibration_images(data) if kind == CompressionType.INT8_PTQ else ()
    path = weights_folder(export_folder(export_root, nagl.checkpoint_file), "openvino") / f"{name}.xml"
    compression = Compression(METHODS.get(kind) if kind else None, images, whole)
    return tell_export(write_openvino(ready, path, compression, options))
