"""What a checkpoint has to hold before a model is rebuilt from it: anybody may have made the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anomalib_nagl.bank.interest import REGION
from anomalib_nagl.core.model import NaglModel
from anomalib_nagl.core.weights import check_weights

STRUCTURE = ("backbone", "layers", "num_proxies", "num_heads", "variant")  # settings that weights depend on
_MODEL = "model."
_SHOWN = 5
_REMEDY = "copy the file again, or train and adapt anew"


def check_content(saved: object) -> dict[str, Any]:
    """What a checkpoint says of its model; ValueError unless all of it is there and of its kind."""
    if not isinstance(saved, Mapping):
        raise ValueError(f"found a checkpoint with {type(saved).__name__} about its model, expected facts: {_REMEDY}")
    given = dict(saved)
    settings = given.get("settings")
    problems = [f"no {name}" for name in ("head_trained", "kept", "fingerprint", "backbone") if name not in given]
    if isinstance(settings, Mapping):
        problems += [f"no setting {name}" for name in (*STRUCTURE, "image_size") if name not in settings]
    else:
        problems.append("no settings")
    listed = given.get("references")
    if not isinstance(listed, (list, tuple)) or not all(isinstance(one, Mapping) for one in listed):
        problems.append("no list of references")
    if not isinstance(given.get("manifest"), Mapping):
        problems.append("no record of references")
    if not isinstance(given.get("backbone"), (Mapping, type(None))):
        problems.append("a backbone that is no configuration")
    if problems:
        raise ValueError(f"found a checkpoint with {', '.join(problems)}, expected a whole one: {_REMEDY}")
    return given


def check_state(state: object, model: NaglModel) -> None:
    """Raise ValueError unless there are finite weights of a model, and references of its width, however many."""
    if not isinstance(state, Mapping):
        raise ValueError(f"found a checkpoint with {type(state).__name__} as weights, expected tensors: {_REMEDY}")
    given = {name.removeprefix(_MODEL): one for name, one in state.items() if str(name).startswith(_MODEL)}
    check_weights(given, "a checkpoint")
    references = dict(model.named_buffers(recurse=False))
    problems = []
    for name, wanted in model.state_dict().items():
        if name not in given:
            problems.append(f"{name} is missing")
            continue
        # References may be any number, which is the first of their sizes, and a region is whole or none.
        free = 2 if name == REGION and tuple(given[name].shape) in ((1, 1), model.encoder.image_size) else 1
        found, expected = (tuple(one.shape)[free * (name in references) :] for one in (given[name], wanted))
        if found != expected or given[name].ndim != wanted.ndim:
            problems.append(f"{name} has shape {tuple(given[name].shape)} instead of {tuple(wanted.shape)}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"found a checkpoint that does not fit its own settings ({'; '.join(problems[:_SHOWN])}{more}), "
            f"expected the weights of that model: {_REMEDY}"
        )
