"""Let a stock anomalib find the ``anomalib_nagl`` plugin by its short names.

Python's ``site`` calls :func:`install` at the start of every program of the environment. Hence the three rules of this
file: import only what is loaded anyway, do nothing until somebody imports ``anomalib.models``, and never raise.
Setting ``ANOMALIB_NAGL_AUTOLOAD`` to ``0``, ``false``, ``no`` or ``off`` keeps it out altogether.
"""

import os
import sys

TARGET = "anomalib.models"
PLUGIN = "anomalib_nagl"
SWITCH = "ANOMALIB_NAGL_AUTOLOAD"

# Spelled out because importing ``typing`` alone would cost more than the rest of this file.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class _Finder:
    """Import-system entry that waits for ``anomalib.models`` to run, then removes itself."""

    _asking = False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        """Return the regular spec of ``anomalib.models`` with a follow-up attached, nothing for any other module."""
        if fullname != TARGET or self._asking:
            return None
        from importlib.util import find_spec

        # The other finders must be asked through the public front door, which comes by here again.
        self._asking = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asking = False
        # A loader that is a class is shared by many modules (frozen programs): nothing may be attached to it.
        if spec is not None and spec.loader is not None and not isinstance(spec.loader, type):
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: "Loader") -> None:
        """Register the plugin right after this loader has run its module."""
        run = loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            del loader.exec_module  # the loader's own method shows again before any foreign code runs
            run(module)
            # Only now: a mere look-up of the spec or a failed import must not use the hook up.
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except AttributeError:  # a loader with fixed slots: stay unregistered rather than in the way
            return


def _register() -> None:
    """Import and register the plugin; a broken one costs a warning, an absent one nothing."""
    try:
        from importlib import import_module

        import_module(PLUGIN).register()
    except Exception as error:  # whatever is wrong with the plugin, anomalib itself must go on
        if isinstance(error, ModuleNotFoundError) and error.name == PLUGIN:
            return
        import warnings

        message = f"the anomalib plugin {PLUGIN!r} could not be loaded and is left out: {error!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def install() -> None:
    """Start waiting for ``anomalib.models``, unless the environment variable forbids it."""
    try:
        if os.environ.get(SWITCH, "").strip().lower() in ("0", "false", "no", "off"):
            return
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    except Exception:  # a start-up hook has nobody to report to
        pass
