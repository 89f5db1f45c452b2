"""``anomalib-nagl``: our own subcommands; everything else goes on to anomalib's command line, with the plugin in it."""

from __future__ import annotations

import sys
from importlib import import_module

import anomalib_nagl
from anomalib_nagl.io.distributions import tell_conflict

# Subcommand -> module and function, imported when it is called: some must run where torch is not installed.
SUBCOMMANDS = {
    "edge": "anomalib_nagl.commands.edge:main",
    "evaluate": "anomalib_nagl.commands.evaluate:main",
    "references": "anomalib_nagl.commands.references:main",
}


def main() -> None:
    """Run one of our subcommands, or register the plugin and run anomalib's command line with the arguments given."""
    tell_conflict()
    if len(sys.argv) > 1 and sys.argv[1] in SUBCOMMANDS:
        module, function = SUBCOMMANDS[sys.argv[1]].split(":")
        try:
            sys.exit(getattr(import_module(module), function)(sys.argv[2:]))
        except ValueError as error:
            sys.exit(f"anomalib-nagl {sys.argv[1]}: {error}")
    try:
        anomalib_nagl.register()
        # Imported late: registration must come before anything of anomalib parses a name.
        from anomalib.cli.cli import main as anomalib_main
    except ImportError as error:
        sys.exit(f"anomalib-nagl: {error}; expected anomalib, or one of the commands {', '.join(SUBCOMMANDS)}")
    anomalib_main()


if __name__ == "__main__":
    main()
