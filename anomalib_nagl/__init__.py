"""NAGL for anomalib: find defects with a few normal and a few abnormal reference images.

Importing the package costs nothing: every public name is fetched from its module at first use.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.drawn import DrawnPictures
    from .data.reference_datamodule import ReferenceDataModule
    from .edge import EdgeError, NaglEdge
    from .head import NaglHead, NaglMaps
    from .lightning_model import Nagl
    from .losses import NaglLoss
    from .nearest import NearestReference
    from .post_processing import ReferencePostProcessor
    from .prediction import Prediction
    from .references import ReferenceSet
    from .torch_model import NaglModel
    from .visualizer import ReferenceVisualizer

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
    "register",
]

# The module that holds each public name.
_HOMES = {
    "DrawnPictures": "data.drawn",
    "EdgeError": "edge",
    "Nagl": "lightning_model",
    "NaglEdge": "edge",
    "NaglHead": "head",
    "NaglLoss": "losses",
    "NaglMaps": "head",
    "NaglModel": "torch_model",
    "NearestReference": "nearest",
    "Prediction": "prediction",
    "ReferenceDataModule": "data.reference_datamodule",
    "ReferencePostProcessor": "post_processing",
    "ReferenceSet": "references",
    "ReferenceVisualizer": "visualizer",
}

# Where anomalib looks names up, and which of ours belong there.
_SHOWN_IN = {"anomalib.models": ("Nagl",), "anomalib.data": ("ReferenceDataModule", "DrawnPictures")}

_waiting = False  # register() was called too early and has to be repeated


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


def register() -> None:
    """Show the plugin's classes where anomalib resolves names; repeating it does no harm.

    The start-up hook calls this as soon as ``anomalib.models`` is there. That may be in the middle of an import of one
    of our own modules, half of which exists by then: in this case registration is put off until that import is over.

    Raises:
        ImportError: the plugin, or anomalib, cannot be imported.
    """
    global _waiting
    places = {place: import_module(place) for place in _SHOWN_IN}
    try:
        classes = {name: __getattr__(name) for names in _SHOWN_IN.values() for name in names}
    except (ImportError, AttributeError):
        _waiting = _half_imported()
        if not _waiting:
            raise
        return
    _waiting = False
    for place, names in _SHOWN_IN.items():
        for name in names:
            _show(places[place], name, classes[name])
    # get_model() takes dotted class paths from this list of modules only.
    places["anomalib.models"].ALLOWED_MODULES.add(__name__)


def _show(place: ModuleType, name: str, value: object) -> None:
    """Make a class a public member of a foreign module."""
    setattr(place, name, value)
    if name not in place.__all__:
        place.__all__.append(name)


def _half_imported() -> bool:
    """Whether the import of one of our modules has begun and not ended."""
    ours = (module for name, module in list(sys.modules.items()) if name.startswith(f"{__name__}."))
    return any(getattr(module.__spec__, "_initializing", False) for module in ours)


class _Package(ModuleType):
    """Type of this package: the import system sets each finished submodule as an attribute, the cue for registration.

    Thus Nagl is registered however it was reached: by its public name, by its module, with or without the hook.
    """

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if isinstance(value, ModuleType) and (_waiting or name == "lightning_model"):
            try:
                register()
            except Exception as error:  # the import that triggered this has itself succeeded
                message = f"{__name__} could not be registered with anomalib: {error!r}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)


sys.modules[__name__].__class__ = _Package
