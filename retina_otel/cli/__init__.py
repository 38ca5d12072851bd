"""The command `retina-otel`: the only layer that prints and exits.

A command's module is imported when the command runs, so that `version` and completion stay quick.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the installed command."""
    from retina_otel.cli.app import run

    run()
