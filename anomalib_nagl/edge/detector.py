"""``NaglEdge``: an exported model on a box without torch, whose references can be changed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_nagl.bank.bank import Bank, Reference
from anomalib_nagl.bank.bank_file import read_bank, write_bank
from anomalib_nagl.edge.reference_encoder import ReferenceEncoder
from anomalib_nagl.edge.runtime import Requests, compile_graph, read_graph
from anomalib_nagl.io.arrays import as_image, as_mask, content_hash, eight_bit, thumbnail
from anomalib_nagl.io.errors import EdgeError
from anomalib_nagl.io.export_manifest import read_export_manifest


class Prediction(NamedTuple):
    """What a detector says of an image.

    ``score`` and ``map`` (h, w) are in [0, 1] when the model normalises, ``label`` and ``mask`` (h, w) tell where they
    exceed their threshold; both are None for a model exported without thresholds. The map has the size of the network
    input.
    """

    score: float
    label: bool | None
    map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None


class Thresholds(NamedTuple):
    """Raw scores, before normalisation, above which an image and a pixel count as abnormal; NaN when never set."""

    image: float
    pixel: float


@dataclass(frozen=True)
class _State:
    """One set of references, in the form a request takes. It is replaced as a whole and never changed."""

    bank: Bank
    tensors: dict[str, ov.Tensor] = field(repr=False)

    @classmethod
    def of(cls, bank: Bank) -> _State:
        arrays = {**bank.state(), "thresholds": bank.thresholds}
        # The tensors own a copy: no request can outlive what it reads.
        return cls(bank, {name: ov.Tensor(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()})


class NaglEdge:
    """An exported detector on OpenVINO alone.

    ``model`` is the exported ``model.xml``; its manifest, the graphs ``encoder.xml``, ``scorer.xml`` and
    ``references.xml``, and the bank ``references.safetensors`` lie beside it. ``references`` is another reference bank
    to start with. ``precision`` f32 gives torch's answer; None leaves the choice to the device. Up to ``requests``
    images are computed at once. ``cache`` is a folder for compiled graphs, for a faster start. All methods may be
    called from any thread: every prediction uses the references from before or from after a change, never a mix.
    Raises EdgeError when a file is missing, truncated, edited or made for another model.
    """

    def __init__(
        self,
        model: str | Path,
        device: str = "CPU",
        precision: str | None = "f32",
        requests: int = 1,
        references: str | Path | None = None,
        cache: str | Path | None = None,
    ) -> None:
        if requests < 1:
            raise EdgeError(f"found {requests} requests, expected at least 1: that many images are computed at once")
        path = Path(model)
        self._manifest = read_export_manifest(path.with_suffix(".json"))
        bank_path = Path(references) if references else path.with_name("references.safetensors")
        bank = read_bank(bank_path, self.compatibility)
        self._core = ov.Core()
        self._config = {"CACHE_DIR": str(cache)} if cache else {}
        config: dict[str, Any] = {**self._config, "PERFORMANCE_HINT": "LATENCY" if requests == 1 else "THROUGHPUT"}
        if requests > 1:
            config["PERFORMANCE_HINT_NUM_REQUESTS"] = requests
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        encoder, scorer = (path.with_name(f"{name}.xml") for name in ("encoder", "scorer"))
        self._encoders, self._scorers = (
            Requests(compile_graph(self._core, read_graph(self._core, graph), device, config), requests)
            for graph in (encoder, scorer)
        )
        self._references = ReferenceEncoder(self._core, encoder, path.with_name("references.xml"), self._config)
        self._change = threading.Lock()
        self._state = _State.of(bank)

    @property
    def compatibility(self) -> dict[str, Any]:
        """Backbone, head, grid and sizes of the model, which a reference bank has to share."""
        return dict(self._manifest["compatibility"])

    @property
    def references(self) -> tuple[Reference, ...]:
        """The images that are compared with."""
        return self._state.bank.references

    @property
    def thresholds(self) -> Thresholds:
        """The raw thresholds in use; those of the export until ``set_thresholds`` or ``load`` changes them."""
        image, pixel = self._state.bank.thresholds.tolist()
        return Thresholds(image, pixel)

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Change the raw threshold of image scores or of pixels; normalised scores move along, as in torch."""
        with self._change:
            old = self._state.bank.thresholds
            new = [was if now is None else now for was, now in zip(old, (image, pixel), strict=True)]
            self._state = _State.of(replace(self._state.bank, thresholds=np.array(new, dtype=np.float32)))

    def predict(self, image: Any) -> Prediction:
        """Score an image: RGB (H, W, 3) of any size, uint8 or float in [0, 1], or the path of a file, read upright."""
        return self.score(self.encode(image))

    def encode(self, image: Any) -> NDArray[np.float32]:
        """Patch tokens (M, C) of an image; they stay the same whatever is taught afterwards."""
        tokens: NDArray[np.float32] = self._encoders.infer(_image(image))["tokens"]
        return tokens[0]

    def score(self, tokens: NDArray[np.float32]) -> Prediction:
        """Score an image by its tokens (M, C) from ``encode``: again after a lesson, without encoding again."""
        # The state is read once: everything in the request comes from the same set of references.
        return _prediction(self._scorers.infer({"tokens": ov.Tensor(tokens[None]), **self._state.tensors}))

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Score many images in order, up to ``requests`` of them at once.

        Images are taken as they are needed, and each is compared with the references of that moment.
        """
        return (self.score(found["tokens"][0]) for found in self._encoders.stream(_image(image) for image in images))

    def add_normal(self, image: Any, name: str | None = None) -> None:
        """Compare with one more normal image from the next prediction on."""
        self._add("normal", as_image(image), None, self._named(name, image), "good")

    def add_abnormal(self, image: Any, mask: Any = None, name: str | None = None, defect_type: str = "defect") -> None:
        """Learn a defect from an image, effective at the next prediction.

        ``mask`` (H, W) is non-zero on the defect, or the path of a file (``read_mask``); without one the patches count
        that deviate most from the normal references (``bank.patch_masks``). Raises EdgeError when the name is
        taken, when the mask is empty or of another size, or when an image without a mask comes before any normal one.
        """
        picture, name = as_image(image), self._named(name, image)
        if not self._manifest["head_trained"]:
            warnings.warn(
                "the head of this model is untrained: abnormal references add noise; export a trained one", stacklevel=2
            )
        given = None if mask is None else as_mask(mask, image, picture.shape[1:], name)
        self._add("abnormal", picture, given, name, defect_type)

    def remove(self, name: str) -> None:
        """Forget the reference of this name; EdgeError if there is none, or if it is the last one."""
        with self._change:
            kept = tuple(one for one in self.references if one.name != name)
            if len(kept) == len(self.references):
                names = ", ".join(repr(one.name) for one in self.references)
                raise EdgeError(f"found no reference named {name!r}, expected one of {names}: check the name")
            self._take(kept)

    def save(self, path: str | Path) -> None:
        """Write references and thresholds to a reference bank, in one step."""
        write_bank(Path(path), self._state.bank)

    def load(self, path: str | Path) -> None:
        """Replace references and thresholds by those of a bank; EdgeError unless it was made for this model."""
        state = _State.of(read_bank(Path(path), self.compatibility))
        with self._change:
            self._state = state

    def _add(
        self, kind: str, picture: NDArray[np.float32], mask: NDArray[np.float32] | None, name: str, defect: str
    ) -> None:
        pixels = eight_bit(picture)
        tokens = self._references.encode(picture)
        with self._change:
            if name in {one.name for one in self.references}:
                raise EdgeError(f"found a reference named {name!r} already, expected another name: remove it first")
            marked = np.zeros(len(tokens), np.float32)
            if kind == "abnormal":
                marked = self._references.patch_mask(tokens, mask, self._state.bank)
            localized = mask is not None and not marked.all()
            new = Reference(kind, name, defect, content_hash(picture), thumbnail(pixels), tokens, marked, localized)
            self._take((*self.references, new))

    def _take(self, references: tuple[Reference, ...]) -> None:
        """Compute what a set of references amounts to, then let it replace the old one."""
        bank = replace(self._state.bank, references=references)
        self._state = _State.of(replace(bank, residual_proxies=self._references.mine(bank)))

    def _named(self, name: str | None, image: Any) -> str:
        if name is not None:
            return name
        if isinstance(image, str | Path):
            return Path(image).as_posix()
        taken = {one.name for one in self.references}
        return next(text for i in range(len(taken) + 1) if (text := f"reference {i}") not in taken)


def _image(image: Any) -> dict[str, ov.Tensor]:
    return {"image": ov.Tensor(as_image(image)[None])}


def _prediction(outputs: dict[str, Any]) -> Prediction:
    label, mask = outputs.get("pred_label"), outputs.get("pred_mask")
    return Prediction(
        float(outputs["pred_score"].reshape(())),
        None if label is None else bool(label.reshape(())),
        outputs["anomaly_map"][0, 0],
        None if mask is None else mask[0, 0].astype(bool),
    )
