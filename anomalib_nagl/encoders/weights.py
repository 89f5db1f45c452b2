"""Where pretrained weights come from: a file, a folder, the local hub cache, and only then the hub."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from timm.models import load_state_dict
from torch import Tensor, nn

logger = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
FILE_NAMES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
REMEDIES = (
    "backbone=builtin, which comes with the package; "
    "backbone=local-dir:PATH, a folder with config.json and model.safetensors; "
    "backbone_weights=FILE, a .safetensors or .pth of this architecture; "
    "HF_HOME=PATH, a hub cache filled on another machine"
)


class WeightsError(RuntimeError):
    """Pretrained weights are missing, unreadable or of another architecture; the message holds the remedies."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or weights-only torch file; wrappers like ``state_dict`` are taken off.

    Raises WeightsError when there is no such file or it is no checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"weights: found no file {path}, expected a .safetensors or .pth checkpoint: {REMEDIES}")
    try:
        state = load_state_dict(str(path), weights_only=True)
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # readers of a foreign file fail in many ways
        raise WeightsError(
            f"weights: {path} cannot be read ({type(error).__name__}: {_first_line(error)}), expected a .safetensors "
            f"or a .pth that loads without running code. Save the model's state_dict() again, or: {REMEDIES}"
        ) from error
    if not tensors:
        raise WeightsError(
            f"weights: {path} holds {sorted(map(str, state))[:5]} and no tensors at its top, expected a state dict. "
            f"Save the part that holds the backbone on its own, or: {REMEDIES}"
        )
    return tensors


def check_fit(state: Mapping[str, Tensor], model: nn.Module, path: Path, name: str) -> None:
    """Raise WeightsError unless every tensor of the model has its like in the checkpoint.

    timm itself ignores missing tensors as soon as the classifier is left out and would go on with random ones.
    ``model`` may lie on the meta device. Foreign key names, like those of the original DINOv2 files, are translated
    by the filter that timm keeps beside each architecture.
    """
    expected = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    _check_table(state, model, path)
    architecture = vars(sys.modules[type(model).__module__])
    translate = architecture.get("checkpoint_filter_fn") or architecture.get("_filter_fn")
    try:
        found = translate(dict(state), model) if translate else state
        problems = [f"{key} is missing" for key in expected if key not in found] + [
            f"{key} is {tuple(found[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in found and found[key].shape != value.shape
        ]
    except Exception as error:  # the filters index and reshape what they take for granted
        problems = [f"{type(error).__name__}: {_first_line(error)}"]
    if problems:
        raise WeightsError(
            f"weights: {path} does not fit {name}: {'; '.join(problems[:3])}; {len(problems)} of {len(expected)} "
            f"tensors differ, found keys like {', '.join(list(state)[:3])}. Give the file of this architecture, or the "
            f"backbone that the file belongs to: {REMEDIES}"
        )


def file_in_folder(folder: Path) -> Path:
    """Path of the checkpoint in a ``local-dir:`` folder, by timm's order of file names."""
    named = [folder / name for name in FILE_NAMES if (folder / name).is_file()]
    other = [path for pattern in ("*.safetensors", "*.pth", "*.bin") for path in sorted(folder.glob(pattern))]
    if not named + other:
        raise WeightsError(f"weights: found no checkpoint in {folder}, expected model.safetensors: {REMEDIES}")
    return (named + other)[0]


def fetch(name: str, repository: str | None, file_name: str | None = None) -> Path:
    """Path of a backbone's pretrained file on this machine, downloaded if need be.

    ``repository`` is the hub's, with an optional ``@revision``. A hub that does not answer is noticed within seconds:
    its own client would repeat every request for the better part of a minute. Raises WeightsError.
    """
    if not repository:
        raise WeightsError(f"weights: there are no pretrained weights for {name} on the hub: {REMEDIES}")
    repository, _, revision = repository.partition("@")
    names = (file_name,) if file_name else FILE_NAMES[:2]
    cached = _cached(repository, names, revision)
    if cached is not None:
        return cached
    obstacle = _offline() or _unreachable(constants.ENDPOINT)
    for candidate in () if obstacle else names:
        try:
            logger.info("downloading %s of %s", candidate, repository)
            return Path(huggingface_hub.hf_hub_download(repository, candidate, revision=revision or None))
        except EntryNotFoundError as error:
            obstacle = f"it has no {candidate} ({_first_line(error)})"
        except Exception as error:  # the client's exceptions differ between its releases
            obstacle = f"download of {candidate} failed ({type(error).__name__}: {_first_line(error)})"
            break
    raise WeightsError(
        f"weights: pretrained weights of backbone {name} are not here. Tried {' and '.join(names)} of {repository} in "
        f"the hub cache {constants.HF_HUB_CACHE} (not there), then the hub: {obstacle}. Remedies: {REMEDIES}"
    )


def unobtainable(repository: str, file_name: str | None = None) -> str:
    """Say why a hub file can be neither read nor downloaded; empty if it can, as far as is known without downloading.

    ``repository`` as in ``fetch``; it takes seconds at most.
    """
    repository, _, revision = repository.partition("@")
    if _cached(repository, (file_name,) if file_name else FILE_NAMES[:2], revision) is not None:
        return ""
    return cannot_fetch(constants.ENDPOINT, "the hub")


def in_cache(repository: str, file_name: str | None = None) -> bool:
    """Whether a hub file, as for ``unobtainable``, is on this machine."""
    repository, _, revision = repository.partition("@")
    return _cached(repository, (file_name,) if file_name else FILE_NAMES[:2], revision) is not None


def cannot_fetch(address: str, name: str) -> str:
    """Say, without addresses, why nothing can be downloaded from there; empty if something answers within seconds."""
    if _offline():
        return _offline()
    return f"{name} does not answer" if _unreachable(address) else ""


def _cached(repository: str, names: tuple[str, ...], revision: str) -> Path | None:
    for candidate in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _offline() -> str:
    """Say that the user forbade the network; empty otherwise. The variable is read again, the client reads it once."""
    asked = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return "offline mode is set (HF_HUB_OFFLINE)" if asked or constants.HF_HUB_OFFLINE else ""


def _unreachable(address: str) -> str:
    """Say why a server does not answer; empty when it does. Any answer counts, proxies are the client's business."""
    try:
        get_session().head(address, timeout=PROBE_SECONDS)
    except Exception as error:
        return f"{address} does not answer ({type(error).__name__}: {_first_line(error)})"
    return ""


def _check_table(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Refuse a positional table of another native grid: timm would resample it by a rule that is not ours."""
    table, native = state.get("pos_embed"), getattr(model, "pos_embed", None)
    if table is None or not isinstance(native, Tensor) or table.ndim != 3 or native.ndim != 3:
        return
    prefix = getattr(model, "num_prefix_tokens", 1)  # some tables count the class token, others do not
    if abs(table.shape[1] - native.shape[1]) > prefix:
        raise WeightsError(
            f"weights: {path} has a positional table of {table.shape[1]} entries, expected {native.shape[1]} as in the "
            f"published model. Save the model at its native image size, or: {REMEDIES}"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
