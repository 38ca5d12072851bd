"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from retina_otel.config.load import Configuration
    from retina_otel.config.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def configuration_options(function: F) -> F:
    """`--config FILE` and `--set KEY=VALUE`, as parameters `config` and `overrides`."""
    config = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path, readable=False),
        multiple=True,
        callback=_one_file,
        envvar="RETINA_OTEL_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="YAML file, shaped like an OpenTelemetry Collector's. Without it the built-in "
        "default runs.",
    )
    overrides = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set one key, as in receivers.flows.events=end. May be given often; wins over file "
        "and environment.",
    )
    return config(overrides(function))


def _one_file(
    context: click.Context, parameter: click.Parameter, files: tuple[Path, ...]
) -> Path | None:
    """Several files, which a Collector would merge, are refused: the last must not win unsaid."""
    if len(files) > 1:
        raise click.BadParameter("files are not merged: give one, and single keys with --set")
    return files[0] if files else None


def load_configuration(
    registry: Registry, config: Path | None, overrides: Sequence[str]
) -> Configuration:
    """Reads the configuration that the options name. Raises ConfigError."""
    import os

    from retina_otel.config.load import load

    return load(registry, path=config, environment=os.environ, overrides=overrides)
