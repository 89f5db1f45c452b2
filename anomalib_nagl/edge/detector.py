"""``NaglEdge``: an exported model on a box without torch, whose references can be changed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_nagl.bank.adapted import ReferencePatches, assemble
from anomalib_nagl.bank.bank_file import BankFile, Snapshot
from anomalib_nagl.bank.border import SCALE, scales_of, settings_of_scale
from anomalib_nagl.bank.calibration import Calibration, calibrate
from anomalib_nagl.bank.held_out import Detector
from anomalib_nagl.bank.interest import within
from anomalib_nagl.bank.maps import anomaly_map, smoothing_matrix, smoothing_sigma
from anomalib_nagl.bank.nearest import NearestReference, OwnedPatches, nearest_reference, owned_patches
from anomalib_nagl.bank.reference import Reference, check_text
from anomalib_nagl.edge.baking import bake
from anomalib_nagl.edge.infer_requests import Requests
from anomalib_nagl.edge.lessons import Lessons
from anomalib_nagl.edge.reference_encoder import ReferenceEncoder
from anomalib_nagl.edge.runtime import compile_graph, read_graph, shared_core
from anomalib_nagl.io.arrays import as_image
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import companion, read_export_manifest
from anomalib_nagl.io.given_paths import as_path
from anomalib_nagl.io.windows import Cut

_NOT_FINITE = (
    "expected finite ones: the device may not be able to compute in this precision: use f32, or restore model and bank "
    "from a copy"
)


class Prediction(NamedTuple):
    """What a detector says of an image.

    ``score`` and ``map`` (h, w) lie between 0 and 1 when the model normalises, ``label`` and ``mask`` (h, w) tell where
    they exceed their threshold; both are None for a model exported without thresholds. The map has the size of the
    network input. ``nearest_reference`` is the reference that the most anomalous patches resemble most.
    """

    score: float
    label: bool | None
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    nearest_reference: NearestReference | None = None


@dataclass(frozen=True)
class _State:
    """One state of the bank, in the form a request takes. It is replaced as a whole and never changed."""

    bank: Snapshot
    tensors: dict[str, ov.Tensor] = field(repr=False)
    owned: OwnedPatches = field(repr=False)
    inside: NDArray[np.bool_] = field(repr=False)  # which patches lie in the region of interest


class NaglEdge(Lessons):
    """An exported detector on OpenVINO alone.

    ``model`` is the exported ``NAME.xml``; its manifest ``NAME.json``, the graphs ``NAME.encoder.xml``,
    ``NAME.scorer.xml`` and ``NAME.references.xml``, and the reference bank ``NAME.bank`` lie beside it. ``bank`` is
    another bank to use. What is taught is kept in the bank at once. ``precision`` f32 gives torch's answer; None leaves
    the choice to the device. Up to ``requests`` images are computed at once. ``cache`` is a folder for compiled graphs,
    for a faster start. With ``follow`` each prediction first looks whether somebody else changed the bank, and takes
    that over. ``author`` stands in the history of the bank, the name of the user if left out. All methods may be called
    from any thread: every prediction uses the references from before or from after a change, never a mix. Raises
    EdgeError when a file is missing, truncated, edited or made for another model.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "CPU",
        precision: str | None = "f32",
        requests: int = 1,
        bank: str | Path | None = None,
        cache: str | Path | None = None,
        follow: bool = False,
        author: str | None = None,
    ) -> None:
        _check_arguments(device, precision, requests, author)
        self._path = path = as_path(model, "a model")
        self._manifest = read_export_manifest(path.with_suffix(".json"))
        given = path.with_suffix(".bank") if bank is None else as_path(bank, "a reference bank")
        self._bank = BankFile(given, self.compatibility, author)
        core, encoder = shared_core(), companion(path, "encoder")
        cached = {} if cache is None else {"CACHE_DIR": str(as_path(cache, "a cache folder"))}
        config: dict[str, Any] = {**cached, "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT"}
        if requests > 1:
            config["PERFORMANCE_HINT_NUM_REQUESTS"] = requests
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        self._encoders, self._scorers = (
            Requests(compile_graph(core, read_graph(core, graph), device, config), requests)
            for graph in (encoder, companion(path, "scorer"))
        )
        self._encoder = ReferenceEncoder(
            core, encoder, companion(path, "references"), cached, self.compatibility, self._manifest["files"]
        )
        self._change = threading.Lock()
        self._follow = follow
        self.reload()
        if self._state.bank.proxies is None:  # whoever starts next need not mine again
            self._bank.keep_proxies(self._state.bank.revision, self._state.tensors["residual_proxies"].data)

    def __reduce__(self) -> Any:
        """Not to be pickled: what is compiled lies in this process."""
        raise EdgeError(
            "found a detector that is to be pickled or copied, expected each process to make its own: hand over the "
            "path of the model"
        )

    @property
    def compatibility(self) -> dict[str, Any]:
        """Backbone, head, grid and sizes of the model, which a reference bank has to share."""
        return dict(self._manifest["compatibility"])

    @property
    def bank(self) -> Path:
        """The file of the reference bank."""
        return self._bank.path

    @property
    def references(self) -> tuple[Reference, ...]:
        """The images that the bank knows; those that are not active are not compared with."""
        return self._state.bank.references

    @property
    def revision(self) -> int:
        """The number of the bank's last change, as far as it is known here."""
        return self._state.bank.revision

    @property
    def patches(self) -> ReferencePatches:
        """Their patches, as they are compared with."""
        return self._state.bank.patches

    @property
    def _snapshot(self) -> Snapshot:
        """What the bank holds, as it is compared with."""
        return self._state.bank

    def predict(self, image: Any) -> Prediction:
        """Score an image: RGB (H, W, 3) of any size, uint8 or float in [0, 1], or the path of a file, read upright."""
        return self.score(self.encode(image))

    def encode(self, image: Any) -> NDArray[np.float32]:
        """Patch tokens (M, C) of an image; they stay the same whatever is taught afterwards."""
        tokens: NDArray[np.float32] = self._encoders.infer(_image(image))["tokens"]
        return tokens[0]

    def score(self, tokens: NDArray[np.float32]) -> Prediction:
        """Score an image by its tokens (M, C) from ``encode``: again after a lesson, without encoding again.

        EdgeError where they are of another shape or type, and where the score is no number.
        """
        self._check_tokens(tokens)
        if self._follow and self.changed():
            self.reload()
        # The state is read once: everything in the request comes from the same set of references.
        state = self._state
        found = self._scorers.infer({"tokens": ov.Tensor(tokens[None]), **state.tensors})
        inside, scores = state.inside, found["patch_scores"].reshape(-1)
        scores = within(scores[None], inside)[0]
        nearest = nearest_reference(tokens, scores, state.owned, state.bank.compared, int(inside.sum()))
        return _prediction(found, *np.isfinite(state.bank.thresholds).tolist())._replace(nearest_reference=nearest)

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Score many images in order, up to ``requests`` of them at once.

        Images are taken as they are needed, and each is compared with the references of that moment. The iterator that
        gives them may itself predict.
        """
        if isinstance(images, str | bytes | Path) or not isinstance(images, Iterable | np.ndarray):
            raise EdgeError(f"found {str(images)[:40]!r} as images, expected several: give a list or another iterable")
        return (self.score(found["tokens"][0]) for found in self._encoders.stream(_image(image) for image in images))

    def calibrate(self) -> Calibration:
        """Find both scales anew from the active references, as an export does; thresholds stay where they are on them.

        Returns what was found; EdgeError where the model was exported without thresholds.
        """
        if "pred_label" not in self._manifest["outputs"]:
            raise EdgeError("found a model that was exported without thresholds, expected one that has labels")
        with self._change:
            state = self._read()
            arrays = {name: tensor.data for name, tensor in state.tensors.items()}
            with self._bank.read_at_once():
                found = calibrate(state.bank.patches, arrays, self._scoring())
        self._bank.set("calibrate", **settings_of_scale((found.image, found.pixel), found.facts()))
        self.reload()
        return found

    def _check_tokens(self, tokens: Any) -> None:
        (rows, cols), width = self.compatibility["grid"], self.compatibility["dim"]
        found = getattr(tokens, "shape", None), str(getattr(tokens, "dtype", type(tokens).__name__))
        if found != ((rows * cols, width), "float32"):
            raise EdgeError(
                f"found tokens of shape {found[0]} and type {found[1]}, expected {(rows * cols, width)} and float32: "
                "hand over what encode returned"
            )
        if not np.isfinite(tokens).all():
            raise EdgeError(f"found tokens that are no number, {_NOT_FINITE}")

    def _scoring(self) -> Detector:
        """The scorer as calibration calls it, and the maps of the network input."""
        (rows, cols), (height, width) = self.compatibility["grid"], self.compatibility["image_size"]
        cut = Cut.of(self.compatibility)
        window, cells = (height, width), None
        if cut is not None:
            window = min(cut.window[0], height), min(cut.window[1], width)
            cells = (window[0] * rows // height) * (window[1] * cols // width)
        sigma = smoothing_sigma(window)
        down, right = smoothing_matrix(rows, height, sigma), smoothing_matrix(cols, width, sigma)

        def score(tokens: NDArray[np.float32], state: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
            inputs = {name: ov.Tensor(np.ascontiguousarray(array)) for name, array in state.items()}
            found: NDArray[np.float32] = self._scorers.infer({**inputs, "tokens": ov.Tensor(tokens)})["patch_scores"]
            return found

        return Detector(score, lambda scores: anomaly_map(scores, down, right), cells)

    def bake(self, out: str | Path) -> Path:
        """Write the exported graph with what the bank holds now to ``out`` (``.xml``), for programs that read it alone.

        Returns its path. EdgeError for another ending, or a file that does not hold the references of an export.
        """
        return bake(self._path, Path(out), {name: tensor.data for name, tensor in self._state.tensors.items()})

    def changed(self) -> bool:
        """Whether the bank was changed by somebody else since it was read."""
        return self._bank.revision() != self._state.bank.revision

    def reload(self) -> None:
        """Take over what the bank holds now."""
        with self._change:
            self._state = self._read()

    def _read(self) -> _State:
        """The bank's state of this moment, ready to be compared with."""
        found = self._bank.snapshot()
        if SCALE not in found.settings:
            raise EdgeError(
                f"found the reference bank {self._bank.path} of an earlier version, whose thresholds are raw scores, "
                "expected scales: take its references over with `anomalib-nagl edge migrate OLD_BANK MODEL`"
            )
        with self._bank.read_at_once():
            arrays: Mapping[str, NDArray[np.float32]] = assemble(found.patches)
            proxies = found.proxies
            if proxies is None:
                proxies = self._encoder.mine(found.patches, arrays["normal_bank"])
            owned = owned_patches(found.patches, found.compared)
        decided = {"thresholds": found.thresholds, "scale": np.array(scales_of(found.settings), np.float32)}
        arrays = {**arrays, "residual_proxies": proxies, **decided}
        # The tensors own a copy: no request can outlive what it reads.
        tensors = {name: ov.Tensor(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()}
        return _State(found, tensors, owned, found.patches.inside)


def _image(image: Any) -> dict[str, ov.Tensor]:
    return {"image": ov.Tensor(as_image(image)[None])}


def _check_arguments(device: Any, precision: Any, requests: Any, author: Any) -> None:
    """Raise EdgeError for what OpenVINO would take for something else, or say nothing sensible of."""
    if not isinstance(requests, int | np.integer) or isinstance(requests, bool) or requests < 1:
        raise EdgeError(f"found {requests!r} requests, expected at least 1: that many images are computed at once")
    if not isinstance(device, str) or not device.strip():
        raise EdgeError(f"found device {device!r}, expected the name of one: choose CPU, or another that OpenVINO has")
    if precision is not None and (not isinstance(precision, str) or not precision.strip()):
        raise EdgeError(f"found precision {precision!r}, expected f32, bf16, f16 or None: None is the device's choice")
    if author is not None:
        check_text("author", author)


def _prediction(outputs: dict[str, Any], labelled: bool = True, masked: bool = True) -> Prediction:
    """Outputs of the scorer; without a threshold there is no label, or no mask."""
    label = outputs.get("pred_label") if labelled else None
    mask = outputs.get("pred_mask") if masked else None
    score = float(outputs["pred_score"].reshape(()))
    # The score of an image is clipped to its range, and NaN with it: those of patches are as they were computed.
    if not (math.isfinite(score) and all(np.isfinite(outputs[name]).all() for name in ("anomaly_map", "patch_scores"))):
        raise EdgeError(f"found scores that are no number, {_NOT_FINITE}")
    return Prediction(
        score,
        None if label is None else bool(label.reshape(())),
        outputs["anomaly_map"][0, 0],
        None if mask is None else mask[0, 0].astype(bool),
    )
