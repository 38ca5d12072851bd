"""`retina-otel components`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click


@click.command(name="components")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(as_json: bool) -> None:
    """List the receivers, processors, exporters and extensions that a configuration may name.

    Those of other installed packages are listed too; a broken one says why.

    \b
    Examples:
      retina-otel components
      retina-otel components --json
    """
    rows = describe()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=160, no_color=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Kind", "Type", "Stability", "Pipelines", "Package", "Needs"):
        table.add_column(heading)
    for row in rows:
        needs = f"[red]{row['error']}[/red]" if row["error"] else ", ".join(row["requires"])
        package = f"{row['package']} {row['version']}"
        signals = ", ".join(row["signals"])
        table.add_row(row["kind"], row["type"], row["stability"], signals, package, needs)
    console.print(table)


def describe() -> list[dict[str, Any]]:
    """A row for each installed component."""
    from retina_otel.component import ComponentKind
    from retina_otel.config.registry import Registry
    from retina_otel.errors import ConfigError

    registry = Registry.installed()
    rows: list[dict[str, Any]] = []
    for offer in registry.offers():
        row: dict[str, Any] = {
            "kind": offer.kind.value,
            "type": offer.type,
            "package": offer.package,
            "version": offer.version,
            "stability": "",
            "signals": [],
            "requires": [],
            "error": "",
        }
        try:
            component = registry.load(offer.kind, offer.type)
        except ConfigError as error:
            row["error"] = str(error)
        else:
            row["stability"] = component.stability
            row["requires"] = list(component.requires)
            if offer.kind is not ComponentKind.EXTENSION:
                row["signals"] = sorted(component.signals, reverse=True)
        rows.append(row)
    return rows
