"""``anomalib-nagl``: commands of this package, and anomalib's own command line with the plugin registered."""

from __future__ import annotations

import sys
from importlib import import_module

import anomalib_nagl

# Commands of this package, imported when called; everything else is anomalib's.
COMMANDS = {"references": "anomalib_nagl.reference_report:main"}


def main() -> None:
    """Register the plugin, then run a command of ours, or anomalib's command line, with the arguments given."""
    anomalib_nagl.register()
    home = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if home is not None:
        module, function = home.split(":")
        try:
            sys.exit(getattr(import_module(module), function)(sys.argv[2:]))
        except ValueError as error:
            sys.exit(f"anomalib-nagl {sys.argv[1]}: {error}")
    # Imported late: registration must come before anything of anomalib parses a name.
    from anomalib.cli.cli import main as anomalib_main

    anomalib_main()


if __name__ == "__main__":
    main()
