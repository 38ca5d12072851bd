"""`retina-otel validate`."""

from __future__ import annotations

from pathlib import Path

import click

from retina_otel.cli.app import warn
from retina_otel.cli.options import configuration_options, load_configuration


@click.command(name="validate")
@configuration_options
def command(config: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Check a configuration without running it. All problems are printed, a line each.

    \b
    Examples:
      retina-otel validate --config agent.yaml
      retina-otel validate --config agent.yaml --set exporters.otlp_http.interval=30s
    """
    from retina_otel.config.registry import Registry

    configuration = load_configuration(Registry.installed(), config, overrides)
    for warning in configuration.warnings:
        warn(warning)
    pipelines = ", ".join(configuration.service.pipelines)
    click.echo(f"{configuration.source} is valid (pipelines: {pipelines})")
