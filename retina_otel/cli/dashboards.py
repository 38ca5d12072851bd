"""`retina-otel dashboards`: prints a Grafana dashboard and Prometheus alert rules."""

from __future__ import annotations

import json

import click

from retina_otel.encode.prometheus.names import DEFAULT_STRATEGY, TranslationStrategy

_STRATEGY = click.option(
    "--translation-strategy",
    type=click.Choice([each.value for each in TranslationStrategy]),
    default=DEFAULT_STRATEGY.value,
    show_default=True,
    help="How the backend's names were made of ours.",
)


@click.group(name="dashboards")
def command() -> None:
    """Print what to look at in Grafana, and what to be alerted of by Prometheus.

    \b
    Examples:
      retina-otel dashboards grafana > retina-otel.json
      retina-otel dashboards alerts > retina-otel-alerts.yaml
    """


@command.command()
@_STRATEGY
def grafana(translation_strategy: str) -> None:
    """Print the Grafana dashboard as JSON, to be imported there.

    \b
    Examples:
      retina-otel dashboards grafana > retina-otel.json
    """
    from retina_otel.dashboards.grafana import dashboard

    click.echo(json.dumps(dashboard(TranslationStrategy(translation_strategy)), indent=2))


@command.command()
@_STRATEGY
def alerts(translation_strategy: str) -> None:
    """Print the alert rules as a rule file of Prometheus.

    \b
    Examples:
      retina-otel dashboards alerts > retina-otel-alerts.yaml
    """
    import yaml

    from retina_otel.dashboards.alerts import rule_file

    content = rule_file(TranslationStrategy(translation_strategy))
    click.echo(yaml.safe_dump(content, sort_keys=False, width=100), nl=False)
