"""`retina-otel agent`."""

from __future__ import annotations

from pathlib import Path

import click

from retina_otel.cli.app import report
from retina_otel.cli.exit_codes import ExitCode
from retina_otel.cli.options import configuration_options, load_configuration


@click.command(name="agent")
@configuration_options
def command(config: tuple[Path, ...], overrides: tuple[str, ...]) -> int:
    """Collect from the kernel and push it out, until SIGTERM or SIGINT.

    It then sends what is left, for at most 5 s; a second SIGTERM or SIGINT ends it at once. SIGHUP
    reads the configuration again; an invalid one leaves the old one running. Without a file, every
    receiver that this kernel can run is collected from, Prometheus can scrape 127.0.0.1:10093, and
    OTLP is pushed if OTEL_EXPORTER_OTLP_ENDPOINT is set.

    \b
    Examples:
      retina-otel agent
      retina-otel agent --config agent.yaml
      retina-otel agent --set exporters.prometheus.endpoint=127.0.0.1:9099
      RETINA_OTEL__SERVICE__INTERVAL=1s retina-otel agent
    """
    import os

    from retina_otel.agent.agent import Agent, NoReceiverError
    from retina_otel.agent.logs import set_up
    from retina_otel.agent.supervise import supervise
    from retina_otel.config.load import Configuration
    from retina_otel.config.registry import Registry
    from retina_otel.errors import KernelError, LoadError

    registry = Registry.installed()

    def read() -> Configuration:
        configuration = load_configuration(registry, config, overrides)
        set_up(configuration.service.telemetry.logs)
        return configuration

    configuration = read()
    import logging

    for warning in configuration.warnings:
        logging.getLogger("retina_otel.config").warning("%s", warning)
    try:
        clean = supervise(Agent(configuration, os.environ), read)
    except NoReceiverError as error:
        report(error)
        reasons = error.errors_by_receiver.values()
        for one in reasons:
            if isinstance(one, LoadError) and one.log_tail:
                click.echo(one.log_tail, err=True)
        kernel = all(isinstance(one, KernelError) for one in reasons)
        return ExitCode.KERNEL if kernel else ExitCode.FAILURE
    return ExitCode.OK if clean else ExitCode.FAILURE
