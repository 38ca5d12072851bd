"""`retina-otel version`."""

from __future__ import annotations

import json
import platform

import click

from retina_otel import __version__


@click.command(name="version")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(as_json: bool) -> None:
    """Print the version.

    \b
    Examples:
      retina-otel version
      retina-otel version --json
    """
    if as_json:
        facts = {
            "version": __version__,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "arch": platform.machine(),
        }
        click.echo(json.dumps(facts))
    else:
        click.echo(f"retina-otel {__version__}")
