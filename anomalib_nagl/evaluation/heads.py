"""Heads of an evaluation, trained as ``anomalib train`` would, on sources that the target is no part of.

A head learns with one normal and one abnormal reference in every episode and is then used with any number of them. It
is chosen on source categories held out from its training, by the rules of ``ReferenceDataModule``, never on the target:
of the target, a training sees two references, after the head is chosen.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from filelock import FileLock
from lightning.pytorch.callbacks import Callback

from anomalib_nagl.evaluation.categories import open_category
from anomalib_nagl.evaluation.extra_sources import extra_source
from anomalib_nagl.evaluation.grid import TrainingJob
from anomalib_nagl.evaluation.names import EPISODE_ARGUMENTS
from anomalib_nagl.evaluation.scorer import device, encode_category, model_arguments
from anomalib_nagl.evaluation.settings import Settings
from anomalib_nagl.io.files import atomic_write_bytes
from anomalib_nagl.plugin.lightning_model import Nagl
from anomalib_nagl.plugin.reference_datamodule import ReferenceDataModule
from anomalib_nagl.plugin.token_store import PRECISIONS


def head_path(settings: Settings, head: TrainingJob) -> Path:
    """Where a head is kept."""
    held_out = settings.domain_of(head.category) if head.source == "other_domains" else head.category
    name = "_".join(re.sub(r"[^A-Za-z0-9.+-]", "-", part) for part in (head.model, head.source, held_out))
    return Path(settings.out) / "heads" / f"{name}_{head.seed}.ckpt"


def train_head(settings: Settings, head: TrainingJob, callbacks: Sequence[Callback] = ()) -> Path:
    """Train a head unless it is there, going on with a training that was killed; returns its file.

    Of several processes that ask at once, one trains and the others wait for it.
    """
    final = head_path(settings, head)
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_suffix(".lock")):
        if not final.exists():  # another process may have trained it while this one waited
            work = final.parent / f".{final.stem}"
            _train(settings, head, work, final, callbacks)
            shutil.rmtree(work, ignore_errors=True)
    return final


def _train(settings: Settings, head: TrainingJob, work: Path, final: Path, callbacks: Sequence[Callback]) -> None:
    # Imported late: anomalib's engine must not be imported while the plugin is being registered.
    from anomalib.engine import Engine

    own = settings.head(head.model)
    model = Nagl(
        **model_arguments(settings, head.model),
        seed=head.seed,
        token_cache_dir=str(Path(settings.out) / "tokens"),
        visualizer=False,
    )
    part = "first" if head.source == "same_object" else "all"
    sources = {name: open_category(settings, name, part) for name in settings.sources_of(head.source, head.category)}
    made = Path(settings.out) / "sources" / part
    extra = {
        f"{name}-{kind}": extra_source(source, name, kind, made)
        for name, source in sources.items()
        for kind in own.get("extra_sources", ())
    }
    sources |= extra
    _encode(settings, model, sources)
    episodes: dict[str, Any] = {name: own[name] for name in EPISODE_ARGUMENTS if name in own}
    data = ReferenceDataModule(
        target=open_category(settings, head.category, "second"),
        source=list(sources.values()),
        n_normal=1,
        n_abnormal=1,
        num_workers=0,
        seed=head.seed,
        strategy=settings.strategy,
        **{"episodes": settings.episodes, **episodes},
    )
    engine = Engine(
        callbacks=list(callbacks), default_root_dir=work, logger=False, enable_progress_bar=False,
        enable_model_summary=False, devices=1,
    )  # fmt: skip
    killed = sorted(work.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    try:
        engine.fit(model=model, datamodule=data, ckpt_path=killed[-1] if killed else None)
    except SystemExit:  # Lightning's answer to an interrupt; who called this has a line for people
        raise KeyboardInterrupt from None
    trained = Path(getattr(engine.trainer.checkpoint_callback, "best_model_path", ""))
    atomic_write_bytes(final, trained.read_bytes())


def _encode(settings: Settings, model: Nagl, sources: Mapping[str, AnomalibDataModule]) -> None:
    """Have the tokens of all images there before training starts: trainings beside it would encode them as well."""
    model.model.encoder.ensure_weights()
    model.to(device())
    for name, source in sources.items():
        paths = sorted(
            {str(path) for data in (source.train_data, source.test_data) for path in data.samples.image_path}
        )
        encode_category(settings, model, name, paths, PRECISIONS[model.token_precision])
