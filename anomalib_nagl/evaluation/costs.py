"""Time and memory of every model of an evaluation, each in a process of its own.

A query is one image that has been read already: preprocessing and model, as the model is shipped, without the tables
and cached features by which an evaluation scores thousands.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from torch import Tensor, nn

from anomalib_nagl.evaluation.baselines import Baseline, build_baseline, unavailable
from anomalib_nagl.evaluation.categories import load_category
from anomalib_nagl.evaluation.executors import KILLED
from anomalib_nagl.evaluation.names import BASELINES, EVERY_NORMAL
from anomalib_nagl.evaluation.protocols import fixed
from anomalib_nagl.evaluation.results import DONE, FAILED, NOT_RUN
from anomalib_nagl.evaluation.scorer import build_head
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.plugin.checkpoints import read_head
from anomalib_nagl.references.images import load_image
from anomalib_nagl.references.reference_set import ReferenceSet
from anomalib_nagl.references.sampling import SupportSet

COSTS = "costs.csv"
NUMBERS = ["ms_median", "ms_p95", "of_encoder", "s_references", "peak_mb", "state_mb"]
COLUMNS = ["model", "status", "reason", *NUMBERS]
WARM_UP, QUERIES = 3, 20
# Of Nagl: kept for people and for exports, not compared with; "normal_tokens" ends "abnormal_tokens" too.
SHOWN = ("reference_images", "reference_masks", "normal_tokens")


@dataclass(frozen=True)
class Subject:
    """A model without references: how it takes them, prepares an image (3, H, W), scores and encodes what it prepared.

    ``trained`` is a part whose parameters the references train.
    """

    module: nn.Module
    take: Callable[[], object]
    prepare: Callable[[Tensor], Tensor]
    score: Callable[[Tensor], object]
    encode: Callable[[Tensor], object]
    trained: nn.Module | None = None
    remark: str = ""


def write_costs(settings: Settings, head: Path | None, told: Callable[[str], object] = lambda model: None) -> Path:
    """Measure the models of an evaluation with one normal and, where they take one, one abnormal reference.

    References and queries are those of the first category; ``head`` is a trained head for NAGL models, whose time is
    that of an untrained one. Writes one row for each model, those that cannot run with the reason:

    ``ms_median`` and ``ms_p95``, milliseconds per query; ``of_encoder``, their median in medians of its encoder alone;
    ``s_references``, seconds to take in references that have been read; ``peak_mb``, the largest resident memory of the
    process beyond what it had after its imports; ``state_mb``, what references left in the model to compare with.
    ``told`` hears of each model before it is measured.
    """
    rows = []
    for model in _measured(settings):
        told(model)
        rows.append(_row(settings, head, model))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    path = Path(settings.out) / COSTS
    atomic_write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
    return path


def read_costs(path: Path) -> pd.DataFrame | None:
    """Read ``costs.csv``, a row for each model; None without the file."""
    if not path.is_file():
        return None
    words = {"model": str, "status": str, "reason": str}
    return pd.read_csv(path, dtype=words, keep_default_na=False, na_values={name: [""] for name in NUMBERS})


def unmeasured(settings: Settings) -> bool:
    """Whether a model is to be measured: there is no row of it, or one that failed."""
    frame = read_costs(Path(settings.out) / COSTS)
    known = set() if frame is None else set(frame.loc[frame["status"] != FAILED, "model"])
    return not known.issuperset(_measured(settings))


def _measured(settings: Settings) -> list[str]:
    """Models to measure: with every normal image, one of anomalib's is measured as with one."""
    return [model for model in settings.models if model not in EVERY_NORMAL]


def _row(settings: Settings, head: Path | None, model: str) -> dict[str, Any]:
    reason = unavailable(model, settings) if model in BASELINES else None
    if reason is not None:
        return {"model": model, "status": NOT_RUN, "reason": reason}
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return {"model": model, "status": DONE, **pool.submit(_measure, settings, head, model).result()}
    except BrokenProcessPool:
        reason = KILLED
    except Exception as error:  # models of others fail in many ways; the others are still to be measured
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    return {"model": model, "status": FAILED, "reason": reason}


def _measure(settings: Settings, head: Path | None, model: str) -> dict[str, Any]:
    before = psutil.Process().memory_info().rss
    normal = 2 if model == "padim" else 1
    category = load_category(settings, settings.evaluated[0])
    draw = fixed(category, normal, 1, 0, (normal, 1))
    references = SupportSet(draw.normal, draw.abnormal).load()
    places = np.linspace(0, len(draw.queries) - 1, WARM_UP + QUERIES).astype(int)
    images = [load_image(draw.queries[place].image) for place in places]
    subject = _baseline(settings, model, references) if model in BASELINES else _head(settings, head, model, references)
    empty = _buffers(subject.module)
    start = time.perf_counter()
    subject.take()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        queries = _times(lambda image: subject.score(subject.prepare(image)), images)
        peak = peak_memory()
        alone = _times(subject.encode, [subject.prepare(image) for image in images])
    trained = subject.trained.parameters() if subject.trained is not None else ()
    state = _buffers(subject.module) - empty + sum(parameter.nbytes for parameter in trained)
    return {
        "reason": subject.remark,
        "ms_median": round(float(np.median(queries)), 1),
        "ms_p95": round(float(np.percentile(queries, 95)), 1),
        "of_encoder": round(float(np.median(queries) / np.median(alone)), 2),
        "s_references": round(seconds, 2),
        "peak_mb": round((peak - before) / 1e6),
        "state_mb": round(state / 1e6, 2),
    }


def _head(settings: Settings, head: Path | None, model: str, references: ReferenceSet) -> Subject:
    module = build_head(settings, model).eval()
    module.model.encoder.ensure_weights()
    if head is not None and settings.is_trained(model):
        state = read_head(head).state
        with suppress(ValueError):  # of another structure: untrained weights take the same time
            module.model.head.load_published(state)
    module.head_trained = True
    if model == "normal_only":
        references = ReferenceSet(references.normal)

    def score(images: Tensor) -> object:
        return module.model.predictions(module.model.score(module.model.encode(images)).score)

    take = partial(module.set_references, references)
    return Subject(module, take, lambda image: module.pre_processor.transform(image)[None], score, module.model.encoder)


def _baseline(settings: Settings, name: str, references: ReferenceSet) -> Subject:
    baseline: Baseline = build_baseline(name, settings)
    model = baseline.module.model
    encoders: dict[str, Callable[[Tensor], object]] = {
        "patchcore": lambda images: model.feature_extractor(images),
        "padim": lambda images: model.feature_extractor(images),
        "mh_patchcore": lambda images: model.feature_extractor(images),
        "anomaly_dino": lambda images: model.extract_features(images),
        "rad": lambda images: model.feature_extractor(images),
        "super_add": lambda images: model.patch_exec(images),
        "dinomaly": lambda images: model.encoder(images),
        "inp_former": lambda images: model.encoder(images),
        "winclip": lambda images: model.clip.encode_image(images),
        "foundad": lambda images: model.extract_features(images),
    }

    def prepare(image: Tensor) -> Tensor:
        return baseline.prepare(image)[None]

    def take() -> None:
        baseline.take_references(torch.cat([prepare(image) for image in references.normal]))

    trained = model.projector if name == "foundad" else getattr(baseline.module, "trainable_modules", None)
    remark = "with 2 normal references, the fewest it takes" if name == "padim" else ""
    return Subject(baseline.module, take, prepare, baseline.score, encoders[name], trained, remark)


def _times(run: Callable[[Tensor], object], images: list[Tensor]) -> list[float]:
    """Milliseconds of each image after the first few."""
    taken = []
    for image in images:
        start = time.perf_counter()
        run(image)
        taken.append(1e3 * (time.perf_counter() - start))
    return taken[WARM_UP:]


def _buffers(module: nn.Module) -> int:
    """Bytes of the buffers of a model, without what is kept to be shown."""
    return sum(tensor.nbytes for name, tensor in module.named_buffers() if not name.endswith(SHOWN))


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what getrusage says there includes the parent of a new process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
