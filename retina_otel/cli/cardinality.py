"""`retina-otel cardinality`."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retina_otel.pipeline.series.attribute_costs import MetricCardinality

DEFAULT_ENDPOINT = "127.0.0.1:13133"
_TIMEOUT_S = 30.0
_MAX_BYTES = 16 << 20


@click.command(name="cardinality")
@click.option(
    "--endpoint",
    default=DEFAULT_ENDPOINT,
    show_default=True,
    metavar="HOST:PORT",
    help="Where the agent's health_check extension listens.",
)
@click.option(
    "--metric",
    "patterns",
    multiple=True,
    metavar="NAME",
    help="Only this metric, by its name or a pattern. May be given often.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(endpoint: str, patterns: tuple[str, ...], as_json: bool) -> None:
    """Show what each attribute of a running agent's metrics costs in series.

    For each metric: its series now, its limit, how many found no room in the newest window; for
    each attribute, how many series there would be without it. What it saves is what dropping that
    one attribute saves; attributes that imply each other, as a pod's name does its namespace, save
    little one by one. The agent needs the health_check extension.

    \b
    Examples:
      retina-otel cardinality
      retina-otel cardinality --metric 'retina.flow.*'
      retina-otel cardinality --endpoint 10.0.0.7:13133 --json
    """
    pipelines = _chosen(_ask(endpoint), patterns)
    if as_json:
        shown = {
            name: [_plain(metric) for metric in metrics] for name, metrics in pipelines.items()
        }
        click.echo(json.dumps({"pipelines": shown}, indent=2))
        return
    _print(pipelines)


def _ask(endpoint: str) -> Mapping[str, Sequence[MetricCardinality]]:
    """What the agent answers. Raises RetinaError if there is none, or it does not answer."""
    import urllib3
    from pydantic import TypeAdapter, ValidationError

    from retina_otel.errors import RetinaError
    from retina_otel.pipeline.series.attribute_costs import MetricCardinality
    from retina_otel.serving.address import parse_address

    try:
        host, port = parse_address(endpoint)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--endpoint") from error
    try:
        with urllib3.HTTPConnectionPool(host, port, timeout=_TIMEOUT_S, retries=False) as pool:
            response = pool.request("GET", "/cardinality", preload_content=False)
            body = response.read(_MAX_BYTES)
    except urllib3.exceptions.HTTPError as error:
        raise RetinaError(
            f"no agent answers at {endpoint}",
            "Start one whose configuration has the health_check extension and names it in "
            "service.extensions, or give its address with --endpoint.",
        ) from error
    try:
        answer = json.loads(body)["pipelines"] if response.status == 200 else None
        return TypeAdapter(dict[str, tuple[MetricCardinality, ...]]).validate_python(answer)
    except (ValueError, LookupError, TypeError, ValidationError) as error:
        raise RetinaError(
            f"{endpoint} answers {response.status}, and not as an agent does",
            "Give the address of its health_check extension with --endpoint; an older agent does "
            "not know this command.",
        ) from error


def _chosen(
    pipelines: Mapping[str, Sequence[MetricCardinality]], patterns: Sequence[str]
) -> Mapping[str, Sequence[MetricCardinality]]:
    """The metrics that the patterns name. Raises RetinaError for one that names none."""
    from retina_otel.config.registry import suggestion
    from retina_otel.errors import RetinaError

    names = {metric.metric for metrics in pipelines.values() for metric in metrics}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RetinaError(
                f"the agent has no series of a metric '{pattern}'", suggestion(pattern, names)
            )
    if not patterns:
        return pipelines
    wanted = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    chosen = {
        name: [metric for metric in metrics if metric.metric in wanted]
        for name, metrics in pipelines.items()
    }
    return {name: metrics for name, metrics in chosen.items() if metrics}


def _plain(metric: MetricCardinality) -> dict[str, object]:
    return {
        "metric": metric.metric,
        "series": metric.series,
        "limit": metric.limit,
        "folded": metric.folded,
        "attributes": [
            {
                "name": one.name,
                "values": one.values,
                "series_without": one.series_without,
                "saves": metric.series - one.series_without,
            }
            for one in metric.attributes
        ],
    }


def _print(pipelines: Mapping[str, Sequence[MetricCardinality]]) -> None:
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=120, no_color=True)
    for pipeline, metrics in pipelines.items():
        for metric in metrics:
            heading = f"{metric.metric}: {metric.series:,} of {metric.limit:,} series"
            if metric.folded:
                heading += f", {metric.folded:,} more found no room"
            console.print(f"{heading} (pipeline {pipeline})", style="bold", highlight=False)
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("  Attribute")
            for column in ("Values", "Series without it", "Saves", ""):
                table.add_column(column, justify="right")
            for one in metric.attributes:
                saved = metric.series - one.series_without
                table.add_row(
                    f"  {one.name}",
                    f"{one.values:,}",
                    f"{one.series_without:,}",
                    f"{saved:,}",
                    f"{saved / max(metric.series, 1):.0%}",
                )
            console.print(table)
            console.print()
    if not pipelines:
        console.print("The agent has no series yet.")
