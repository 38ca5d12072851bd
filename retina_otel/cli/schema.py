"""`retina-otel schema`."""

from __future__ import annotations

import json

import click


@click.command(name="schema")
def command() -> None:
    """Print the JSON Schema of the configuration, with the components installed here.

    \b
    Examples:
      retina-otel schema > retina-otel.schema.json
    """
    from retina_otel.config.registry import Registry
    from retina_otel.config.schema import json_schema

    click.echo(json.dumps(json_schema(Registry.installed()), indent=2))
