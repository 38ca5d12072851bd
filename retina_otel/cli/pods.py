"""`retina-otel pods`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from retina_otel.cli.asking import agent_options, ask_agents


@click.command(name="pods")
@click.argument("about", nargs=-1, metavar="[ADDRESS | [NAMESPACE/]NAME]...")
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
@agent_options
def command(about: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Tell what agents know of an address or a pod, and how; without an argument, of every pod.

    HOW is `interface` or `network namespace` for a pod of the agent's own node, which nobody can be
    mistaken for; `address` for any other, as of now; `network` for a named range.

    \b
    Examples:
      retina-otel pods 10.0.3.17
      retina-otel pods shop/cart-7c9d --json
      retina-otel pods --kubeconfig ~/.kube/config --node worker-3
    """
    from retina_otel.observe.answers import Request

    request = Request(what="identities", about=about)
    found = list(ask_agents(options, request, ["pods", "--json", *about]))
    if as_json:
        for line in found:
            click.echo(json.dumps(line, separators=(",", ":")))
    elif found:
        _print(found)
    if about and not found:
        click.echo(f"Nothing is known of {', '.join(about)}.", err=True)
        sys.exit(1)


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200, no_color=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Agent", "Kind", "Name", "Owner", "Node", "Addresses", "Interfaces", "How"):
        table.add_column(heading)
    for line in found:
        table.add_row(
            line["node"],
            line["kind"],
            _name(line["attributes"]),
            _owner(line["attributes"]),
            str(line["attributes"].get("k8s.node.name", "")),
            " ".join(line["addresses"]),
            " ".join(map(str, line["interfaces"])),
            line["how"],
        )
    console.print(table)


def _name(attributes: dict[str, Any]) -> str:
    for key in ("k8s.pod.name", "k8s.service.name"):
        if key in attributes:
            return f"{attributes.get('k8s.namespace.name', '')}/{attributes[key]}"
    for key in ("k8s.node.name", "cidr", "k8s.resource.type"):
        if key in attributes:
            return str(attributes[key])
    return ""


def _owner(attributes: dict[str, Any]) -> str:
    if "k8s.owner.name" not in attributes:
        return ""
    return f"{attributes.get('k8s.owner.type', '')}/{attributes['k8s.owner.name']}"
