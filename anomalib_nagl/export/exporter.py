"""Export to ONNX and OpenVINO: our graphs, and no half-written files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anomalib_nagl.bank.bank_file import BankFile, was_changed
from anomalib_nagl.bank.border import settings_of_scale
from anomalib_nagl.bank.interest import REGION, to_setting
from anomalib_nagl.export import openvino_graph
from anomalib_nagl.export.blockwise_scorer import blockwise_scorer
from anomalib_nagl.export.companions import compatibility_of, facts_of, lessons_of
from anomalib_nagl.export.exportable import Exportable
from anomalib_nagl.export.graphs import trace_detection, trace_encoder, trace_mining, trace_scorer, trace_windowed
from anomalib_nagl.export.metadata import embed_record
from anomalib_nagl.export.telemetry import without_telemetry
from anomalib_nagl.export.windowed_graphs import windowed_encoder
from anomalib_nagl.io.export_manifest import companion, write_export_manifest
from anomalib_nagl.io.files import atomic_files

logger = logging.getLogger(__name__)
METHODS = ("fp16", "int8", "int8_ptq", "int8_acq")
_SETTLED = ("dynamic_axes", "dynamic_shapes", "output_names")


@dataclass(frozen=True)
class Compression:
    """How an OpenVINO file is made smaller: one of ``METHODS``, or nothing.

    ``images`` (3, H, W) in [0, 1] calibrate ``int8_ptq``; ``whole`` compresses a finished graph for ``int8_acq``.
    """

    method: str | None = None
    images: Iterable[Any] = ()
    whole: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Options:
    """A fixed image size, arguments of ``torch.onnx.export`` and of OpenVINO's converter."""

    input_size: tuple[int, int] | None = None
    onnx: dict[str, Any] = field(default_factory=dict)
    openvino: dict[str, Any] = field(default_factory=dict)


def write_onnx(exportable: Exportable, path: Path, options: Options) -> Path:
    """Write one ONNX file with pre- and post-processing and the references.

    ValueError for sizes in ``options.onnx``: batch and, without ``input_size``, height and width are always dynamic.
    """
    _refuse_windows(exportable, "an ONNX file", "export to OpenVINO")
    arguments = dict(options.onnx)
    (image,) = arguments.pop("input_names", ["input"])
    if refused := sorted(set(_SETTLED) & set(arguments)):
        raise ValueError(f"found {', '.join(refused)}, expected none of them: give input_size for images of one size")

    def write(folder: Path) -> Path:
        written = folder / path.name
        trace_detection(exportable, written, options.input_size, **arguments)
        openvino_graph.bake_onnx(written, _arrays(exportable), image)
        embed_record(written, exportable.record)
        return written

    return atomic_files(path.parent, write)


@without_telemetry()
def write_openvino(exportable: Exportable, path: Path, compression: Compression, options: Options) -> Path:
    """Write ``NAME.xml`` and ``.bin`` for any program, and beside them what ``NaglEdge`` needs.

    That is the manifest ``NAME.json``, the graphs ``NAME.encoder.xml``, ``NAME.scorer.xml`` and
    ``NAME.references.xml``, and the reference bank ``NAME.bank``. One that was changed since its export is set aside.
    Compressing touches the encoder alone; the comparison with the references stays as it is, but for ``int8_acq``,
    which is of the whole ``NAME.xml`` and leaves the box's encoder exact. ValueError where NNCF cannot compress.
    """
    if compression.method not in (None, "fp16") or compression.whole is not None:
        _refuse_windows(exportable, "8-bit integers, which are not made inside of its loops", "choose FP16, or none")

    def write(folder: Path) -> Path:
        written = folder / path.name
        with TemporaryDirectory() as temporary:
            encoder, scorer, mining = _graphs(exportable, Path(temporary), options)
            detection = openvino_graph.join(encoder, scorer)
            exact = openvino_graph.outside_encoder(detection)
            given = _taken(exportable, options.input_size)
            original = openvino_graph.encoder_graph(detection, given)
            model = _compressed(exportable, detection, compression, exact, Path(temporary))
            references = openvino_graph.references_graph(mining, None if model is detection else original)
            openvino_graph.save(references, companion(written, "references"))
            openvino_graph.save(openvino_graph.encoder_graph(model, given), companion(written, "encoder"))
            if compression.method == "fp16":
                scorer = openvino_graph.halve(scorer, Path(temporary))
            openvino_graph.save(scorer, companion(written, "scorer"), openvino_graph.names(scorer))
            openvino_graph.bake(model, _arrays(exportable))
            if compression.whole is not None:
                with openvino_graph.explained("the whole", "INT8_PTQ, which is of the encoder"):
                    model = compression.whole(model)
            openvino_graph.fix_size(model, options.input_size)  # not before: images to calibrate with are of any size
            openvino_graph.save(model, written, exact)
        embed_record(written, exportable.record)
        _write_companions(exportable, written)
        return written

    _keep_taught(path.with_suffix(".bank"))
    return atomic_files(path.parent, write)


def _graphs(exportable: Exportable, folder: Path, options: Options) -> tuple[Any, Any, Any]:
    """Encoder, scorer and mining graph in OpenVINO; references are inputs."""
    import openvino as ov

    def convert(name: str) -> Any:
        return ov.convert_model(folder / f"{name}.onnx", **options.openvino)

    seen, by_patch = exportable.model.encoder, not exportable.model.head.variant.proxies
    if seen.cut is not None:
        trace_windowed(exportable, folder, **options.onnx)
        encoder = windowed_encoder(seen, convert("network"), convert("prepare"), exportable.resize)
    else:
        trace_encoder(exportable, folder / "encoder.onnx", **options.onnx)
        encoder = convert("encoder")
    if seen.cut is not None and by_patch:
        parts = ("patches", "image", "band") if exportable.pixelwise else ("patches", "finish")
        smooth = exportable.model.smooth_down.cpu().numpy()
        scorer = blockwise_scorer({name: convert(name) for name in parts}, smooth, seen.patch_size)
    else:
        trace_scorer(exportable, folder / "scorer.onnx", **options.onnx)
        scorer = convert("scorer")
    trace_mining(exportable.model, folder / "mining.onnx")
    return encoder, scorer, ov.convert_model(folder / "mining.onnx")


def _refuse_windows(exportable: Exportable, kind: str, remedy: str) -> None:
    """Raise ValueError for a model with windows."""
    if exportable.model.encoder.cut is not None:
        raise ValueError(f"found a model with windows for {kind}, expected one that sees images as a whole: {remedy}")


def _taken(exportable: Exportable, size: tuple[int, int] | None) -> dict[str, str]:
    """What an encoder's graph says of the images that it is given: how they are resized, and their only size."""
    facts = {}
    if exportable.resize is not None and exportable.model.encoder.cut is None:  # windows are resized one by one
        facts = {"resize": "{} {}".format(*exportable.resize.size), "rounded": str(int(exportable.resize.rounded))}
    return {**facts, **({"input_size": "{} {}".format(*size)} if size else {})}


def _compressed(exportable: Exportable, model: Any, compression: Compression, exact: list[str], folder: Path) -> Any:
    """The detection graph with its encoder made smaller, while the references are still inputs."""
    if compression.method == "fp16":
        return openvino_graph.halve(model, folder)
    if compression.method == "int8":
        return openvino_graph.compress_weights(model, exact)
    if compression.method == "int8_ptq":
        transformer = exportable.model.encoder.is_transformer
        return openvino_graph.quantise(model, exact, compression.images, _arrays(exportable), transformer)
    return model


def _arrays(exportable: Exportable) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in exportable.reference_tensors().items()}


def _write_companions(exportable: Exportable, path: Path) -> None:
    """Write what ``NaglEdge`` needs beside a model: the references themselves, and what must not change."""
    settings = settings_of_scale(exportable.scales, exportable.calibration, exportable.thresholds)
    if region := to_setting(exportable.model.region.cpu().numpy()):
        settings[REGION] = region
    proxies = exportable.model.state["residual_proxies"].detach().float().cpu().numpy()
    compatibility = compatibility_of(exportable)
    BankFile.create(path.with_suffix(".bank"), compatibility, settings, lessons_of(exportable), proxies)
    graphs = [path, *(companion(path, part) for part in ("encoder", "scorer", "references"))]
    files = [graph.with_suffix(suffix) for graph in graphs for suffix in (".xml", ".bin")]
    write_export_manifest(path.with_suffix(".json"), files, facts_of(exportable))


def _keep_taught(bank: Path) -> None:
    """Set a reference bank aside that was changed since its export, before another export takes its place."""
    if not bank.is_file() or not was_changed(bank):
        return
    kept = next(name for i in count(1) if not (name := bank.with_name(f"{bank.stem}.taught-{i}.bank")).exists())
    bank.rename(kept)
    logger.warning(
        "References of %s were changed after its export: they are kept in %s. To take them over: anomalib-nagl edge "
        "migrate %s %s", bank, kept, kept, bank.with_suffix(".xml"),
    )  # fmt: skip
