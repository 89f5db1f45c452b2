"""Our classes where anomalib resolves names."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

# Where anomalib looks names up, and which of ours belong there; the module that holds each.
_SHOWN_IN = {
    "anomalib.models": {"Nagl": "lightning_model"},
    "anomalib.data": {"ReferenceDataModule": "reference_datamodule", "DrawnPictures": "rendered_datamodule"},
}


def register() -> None:
    """Show the plugin's classes where anomalib resolves names; repeating it does no harm.

    Raises:
        ImportError: the plugin, or anomalib, cannot be imported.
    """
    for place, names in _SHOWN_IN.items():
        foreign = import_module(place)
        for name, home in names.items():
            _show(foreign, name, getattr(import_module(f"anomalib_nagl.plugin.{home}"), name))
    import_module("anomalib_nagl.plugin.perlin")  # joins the methods of references.synthetic
    # get_model() takes dotted class paths from this list of modules only.
    import_module("anomalib.models").ALLOWED_MODULES.add("anomalib_nagl")


def _show(place: ModuleType, name: str, value: object) -> None:
    """Make a class a public member of a foreign module."""
    setattr(place, name, value)
    if name not in place.__all__:
        place.__all__.append(name)
