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
        envvar="RETINA_OTEL_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="YAML file, shaped like an OpenTelemetry Collector's. May be given often: mappings "
        "are merged, later files win. Without it the built-in default runs.",
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


def load_configuration(
    registry: Registry, config: Sequence[Path], overrides: Sequence[str]
) -> Configuration:
    """Reads what the options name; without files, the built-in default. Raises ConfigError."""
    import os

    from retina_otel.config.load import load

    return load(registry, path=config, environment=os.environ, overrides=overrides)
