"""NAGL for anomalib: find defects with a few normal and a few abnormal reference images.

Importing the package costs nothing: every public name is fetched from its module at first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bank.nearest import NearestReference
    from .commands.inspect import inspect
    from .core.head import NaglHead, NaglMaps
    from .core.losses import NaglLoss
    from .core.model import NaglModel
    from .edge import NaglEdge
    from .io.errors import EdgeError
    from .plugin.lightning_model import Nagl
    from .plugin.post_processing import ReferencePostProcessor
    from .plugin.prediction import Prediction
    from .plugin.reference_datamodule import ReferenceDataModule
    from .plugin.registration import register
    from .plugin.rendered_datamodule import DrawnPictures
    from .plugin.visualizer import ReferenceVisualizer
    from .references.reference_set import ReferenceSet

    __version__: str

__all__ = [
    "DrawnPictures",
    "EdgeError",
    "Nagl",
    "NaglEdge",
    "NaglHead",
    "NaglLoss",
    "NaglMaps",
    "NaglModel",
    "NearestReference",
    "Prediction",
    "ReferenceDataModule",
    "ReferencePostProcessor",
    "ReferenceSet",
    "ReferenceVisualizer",
    "__version__",
    "inspect",
    "register",
]

# OpenVINO and NNCF report imports and conversions to their makers by this module, and do without it if it is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so Python notes that there is none

# The module that holds each public name.
_HOMES = {
    "DrawnPictures": "plugin.rendered_datamodule",
    "EdgeError": "io.errors",
    "Nagl": "plugin.lightning_model",
    "NaglEdge": "edge",
    "NaglHead": "core.head",
    "NaglLoss": "core.losses",
    "NaglMaps": "core.head",
    "NaglModel": "core.model",
    "NearestReference": "bank.nearest",
    "Prediction": "plugin.prediction",
    "ReferenceDataModule": "plugin.reference_datamodule",
    "ReferencePostProcessor": "plugin.post_processing",
    "ReferenceSet": "references.reference_set",
    "ReferenceVisualizer": "plugin.visualizer",
    "inspect": "commands.inspect",
    "register": "plugin.registration",
}


def __getattr__(name: str) -> object:
    """Fetch a public name from its module at first use.

    Raises:
        AttributeError: there is no such public name.
    """
    if name == "__version__":
        value: object = _installed_version()
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def _installed_version() -> str:
    """Version of this package, or of the part of it that is installed on boxes."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("anomalib-nagl")
    except PackageNotFoundError:
        return version("anomalib-nagl-edge")


def __dir__() -> list[str]:
    """List the lazy names too, so that completion sees them."""
    return sorted({*globals(), *__all__})
