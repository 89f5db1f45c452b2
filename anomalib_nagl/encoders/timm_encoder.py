"""What ViTs and CNNs of timm have in common: how they are named, built and filled with weights."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import Tensor, nn

from anomalib_nagl.encoders import weights
from anomalib_nagl.encoders.base import Encoder

LOCAL = "local-dir:"


@dataclass(frozen=True)
class Backbone:
    """How to build a timm model and where its weights lie; building it reads none.

    Attributes:
        name: as the user gave it, with the ``local-dir:`` scheme or a weight tag.
        architecture: timm's name of it, with the tag if one was given.
        config: architecture, model_args and pretrained_cfg of a ``local-dir:`` backbone, else None.
        weights: file that replaces the pretrained weights, or None.
    """

    name: str
    architecture: str
    config: dict[str, Any] | None = None
    weights: str | None = None

    @classmethod
    def resolve(cls, name: str, file: str | None = None, config: dict[str, Any] | None = None) -> Backbone:
        """Look a backbone up; ``config`` stands in for the config.json of a ``local-dir:`` folder that is not here.

        Raises ValueError for an unknown name or a folder without a usable config.json.
        """
        if name.startswith(LOCAL):
            config = config or _read_config(Path(name[len(LOCAL) :]).expanduser())
            return cls(name, str(config["architecture"]), config, file)
        _check_registered(name)
        return cls(name, name, None, file)

    def create(self, state: dict[str, Tensor] | None = None, device: str = "meta", **arguments: Any) -> Any:
        """Build the timm model without touching the caller's random state, filled from a state dict if one is given."""
        config = self.config or {}
        if state is not None:
            arguments["pretrained_cfg_overlay"] = {"state_dict": state, "source": None, "file": None}
        if not arguments.get("features_only"):
            arguments["num_classes"] = 0
        with torch.random.fork_rng(devices=[]), torch.device(device), quiet_loading():
            return timm.create_model(
                self.architecture,
                pretrained=state is not None,
                pretrained_cfg=dict(config["pretrained_cfg"]) if config else None,
                **{**config.get("model_args", {}), **arguments},
            )

    def read_weights(self) -> dict[str, Tensor]:
        """Read the pretrained state dict from the file given, the folder, the hub cache or the hub, and check it."""
        path = self._weights_path()
        state = weights.read_checkpoint(path)
        if self.weights or self.config:
            weights.check_fit(state, self.create(), path, self.name)
        return state

    def _weights_path(self) -> Path:
        if self.weights:
            return Path(self.weights).expanduser()
        if self.config:
            return weights.file_in_folder(Path(self.name[len(LOCAL) :]).expanduser())
        pretrained = self.create().pretrained_cfg
        return weights.fetch(self.name, pretrained.get("hf_hub_id"), pretrained.get("hf_hub_filename"))


class TimmEncoder(Encoder):
    """Base of the encoders that wrap a timm model.

    Attributes:
        backbone: the timm model.
        source: how it was built and where its weights lie; None for a model that came with its weights.
    """

    backbone: nn.Module
    source: Backbone | None = None

    def _load_pretrained(self) -> None:
        if self.source is None:
            raise weights.WeightsError(f"encoder {self.name!r} was built around a model and has no weights to fetch")
        self._adopt(self.source.read_weights())

    def _adopt(self, state: dict[str, Tensor]) -> None:
        """Take over a state dict with the key names of timm or of the model's authors."""
        raise NotImplementedError

    def _identity(self) -> str:
        if self.source is None:
            return type(self.backbone).__name__
        arguments = (self.source.config or {}).get("model_args", {})
        return f"{self.source.architecture.partition('.')[0]}|{json.dumps(arguments, sort_keys=True)}"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence timm's warnings of unused tensors: a backbone without its classifier never uses them all."""
    loader = logging.getLogger("timm.models._builder")
    level = loader.level
    loader.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loader.setLevel(level)


def _read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json into architecture, model_args and pretrained_cfg."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        architecture = content["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"backbone {LOCAL}{folder}: cannot use {path} ({type(error).__name__}: {error}), expected timm's "
            "schema with architecture, model_args and pretrained_cfg, as timm's save_for_hf writes it"
        ) from error
    _check_registered(architecture)
    return {
        "architecture": architecture,
        "model_args": dict(content.get("model_args", {})),
        "pretrained_cfg": dict(content.get("pretrained_cfg", {})),
    }


def _check_registered(name: str) -> None:
    """Raise ValueError with the nearest names unless timm knows the architecture and, if given, the weight tag."""
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*") if tag and is_model(architecture) else []
    if is_model(architecture) and (not tag or name in tagged):
        return
    near = difflib.get_close_matches(name if tagged else architecture, tagged or timm.list_models(), n=3, cutoff=0.5)
    raise ValueError(
        f"backbone: found {name!r}, expected builtin, {LOCAL}PATH, gabor or the name of a timm model"
        + (f"; did you mean {', '.join(near)}?" if near else ", as timm.list_models() gives them")
    )
