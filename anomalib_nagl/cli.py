"""``anomalib-nagl``: anomalib's command line where the start-up hook is off or start-up files are not read."""

from __future__ import annotations

import anomalib_nagl


def main() -> None:
    """Register the plugin, then run anomalib's command line with the arguments given."""
    anomalib_nagl.register()
    # Imported late: registration must come before anything of anomalib parses a name.
    from anomalib.cli.cli import main as anomalib_main

    anomalib_main()


if __name__ == "__main__":
    main()
