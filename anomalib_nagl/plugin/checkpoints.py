"""Reading trained heads and checkpoints, with errors that say what was found."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_HEAD_PREFIX, _ENCODER_PREFIX = "model.head.", "model.encoder."
# torch's reader fails in many ways on a damaged file.
READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, OSError, AttributeError, TypeError,
    AssertionError,
)  # fmt: skip


class TrainedHead(NamedTuple):
    """Weights of a head under their published names, and what its file says of the model, as far as it does.

    That are settings, fingerprint of the backbone, its configuration (``Encoder.config``) and its weights.
    """

    state: dict[str, Tensor]
    settings: dict[str, Any]
    fingerprint: str | None = None
    backbone: dict[str, Any] | None = None
    encoder: Mapping[str, Tensor] = {}  # of a tuple, never changed


def read_checkpoint(path: str | Path, **options: Any) -> Any:
    """Read a checkpoint file, plain data only; ValueError if it is missing or is not one."""
    if not Path(path).is_file():
        raise ValueError(f"found no file at {path}, expected a checkpoint: check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except READ_ERRORS as error:
        raise ValueError(unreadable(path, error)) from error


def unreadable(path: object, error: Exception) -> str:
    """Say that a file is not a checkpoint, with the first line of the reason."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"found a file that is not a checkpoint of plain tensors: {path} ({reason}); expected a checkpoint written by "
        "`anomalib train`, or the weights of a published head: check the path, or copy the file again"
    )


def read_head(path: str | Path) -> TrainedHead:
    """Read a head from a checkpoint of this package or of the published code; ValueError if it holds none."""
    if Path(path).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return TrainedHead(load_file(path), {})
        except (SafetensorError, OSError) as error:
            raise ValueError(unreadable(path, error)) from error
    found = read_checkpoint(path)
    if isinstance(found, Mapping) and "state_dict" in found:
        state, encoder = (_part(found["state_dict"], prefix) for prefix in (_HEAD_PREFIX, _ENCODER_PREFIX))
        if not state or not found.get("nagl", {}).get("head_trained", False):
            raise ValueError(
                f"found a checkpoint without a trained NAGL head: {path}; expected one that "
                "`anomalib train --model Nagl` wrote with a source to train on"
            )
        known = found["nagl"]
        return TrainedHead(state, dict(known["settings"]), known["fingerprint"], known.get("backbone"), encoder)
    if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
        return TrainedHead(dict(found), {})
    raise ValueError(
        f"found {type(found).__name__} in {path}, expected the named tensors of a head, or a checkpoint of "
        "`anomalib train`"
    )


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def check_checkpoint(checkpoint: object, path: object) -> None:
    """Raise ValueError unless a loaded checkpoint is one of a Nagl model."""
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint or "nagl" not in checkpoint:
        raise ValueError(
            f"found a file that is not a checkpoint of Nagl: {path}; expected one that `anomalib train --model Nagl` "
            "wrote: a bare head goes to --model.head"
        )


def comparable(setting: object) -> object:
    """A setting as far as it matters: of a folder only its name, which may lie anywhere."""
    return Path(setting).name if isinstance(setting, str) and setting.startswith("local-dir:") else setting


def check_backbone(trained_on: str | None, used: str) -> None:
    """Raise ValueError when a head is used on other backbone weights than it was trained on; None is not known."""
    if trained_on not in (None, used):
        raise ValueError(
            "found a head that was trained on other weights of the backbone, expected the same: give those it was "
            "trained on (--model.backbone_weights), or train a head for these"
        )
