"""`retina-otel observe`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from retina_otel.cli.app import warn
from retina_otel.cli.asking import agent_options, ask_agents

if TYPE_CHECKING:
    from retina_otel.observe.filters import Filter

F = TypeVar("F", bound=Callable[..., Any])
Record = dict[str, Any]

_ENDS = (
    ("pod", "[NAMESPACE/]POD", "pods whose name begins so; the namespace is `default`"),
    ("namespace", "NAMESPACE", "a namespace"),
    ("service", "[NAMESPACE/]SERVICE", "a service"),
    ("workload", "[KIND/]NAME", "a workload, as deployment/web"),
    ("ip", "ADDRESS", "an address or a network"),
    ("label", "KEY[=VALUE]", "a label of a pod, where the agent is told to read it"),
    ("port", "PORT", "a port"),
)


def _end_options(function: F) -> F:
    for name, metavar, meaning in reversed(_ENDS):
        for prefix, of in (("to-", "To"), ("from-", "From"), ("", "From or to")):
            option = click.option(
                f"--{prefix}{name}", multiple=True, metavar=metavar, help=f"{of} {meaning}."
            )
            function = option(function)
    return function


@click.command(name="observe")
@_end_options
@click.option("--protocol", multiple=True, metavar="NAME", help="As tcp, udp, icmp.")
@click.option("--verdict", multiple=True, metavar="VERDICT", help="`forwarded` or `dropped`.")
@click.option("--drop-reason", multiple=True, metavar="REASON", help="As netfilter_drop.")
@click.option(
    "-t", "--type", "event", multiple=True, metavar="TYPE", help="Kind of event: `flow` or `drop`."
)
@click.option("--since", metavar="TIME", help="Not older: 5m, or 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Not newer.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="The last N that are kept.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["compact", "json", "table"]),
    default="compact",
    show_default=True,
    help="`json` is one object a line.",
)
@agent_options
def command(**options: Any) -> None:
    """Show the flows and drops that agents have seen: of this node, or of a whole cluster.

    Values of one option are alternatives; different options must all hold.

    \b
    Examples:
      retina-otel observe --verdict dropped --follow
      retina-otel observe --from-pod shop/web --to-port 443 --last 20
      retina-otel observe --to-namespace kube-system --protocol udp -o json
      retina-otel observe --kubeconfig ~/.kube/config --pod shop/cart --since 5m
    """
    from retina_otel.observe.answers import Request

    request = Request(filter=_filter(options), last=options["last"] or 0, follow=options["follow"])
    lines = ask_agents(options, request, _remote_arguments(options))
    show = _printer(options["output"])
    for record in lines if request.follow else _in_order(lines, request.last):
        if "missed" in record and options["output"] != "json":
            warn(f"{record['missed']} events of {record['node']} came too fast and are missed")
        else:
            show(record)


def _filter(options: dict[str, Any]) -> Filter:
    from retina_otel.observe.filters import Filter

    lists = {
        prefix + name: tuple(options[prefix + name])
        for name, _, _ in _ENDS
        for prefix in ("", "from_", "to_")
    }
    for name in ("protocol", "verdict", "drop_reason", "event"):
        lists[name] = tuple(value.lower() for value in options[name])
    return Filter(
        **lists,
        since_ns=_time_ns(options["since"], "--since"),
        until_ns=_time_ns(options["until"], "--until"),
    ).checked()


def _time_ns(text: str | None, option: str) -> int:
    """ns since 1970 of a moment, or of so long ago; 0 for nothing."""
    from retina_otel.errors import RetinaError
    from retina_otel.model.durations import parse_duration

    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return time.time_ns() - int(parse_duration(text) * 1e9)
        except ValueError:
            raise RetinaError(
                f"{option}: {text!r} is no time", "Write 5m, or 2026-01-31T12:00:00Z."
            ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


def _remote_arguments(options: dict[str, Any]) -> list[str]:
    """The same command on a node, whose lines are read by a program."""
    arguments = ["observe", "--output", "json"]
    names = [prefix + name for name, _, _ in _ENDS for prefix in ("", "from_", "to_")]
    for name in [*names, "protocol", "verdict", "drop_reason"]:
        for value in options[name]:
            arguments += [f"--{name.replace('_', '-')}", value]
    for value in options["event"]:
        arguments += ["--type", value]
    for name in ("since", "until", "last"):
        if options[name]:
            arguments += [f"--{name}", str(options[name])]
    return [*arguments, "--follow"] if options["follow"] else arguments


def _in_order(lines: Iterator[Record], last: int) -> list[Record]:
    """What several agents have kept, by time."""
    records = list(lines)
    told = [record for record in records if "missed" in record]
    events = sorted((r for r in records if "missed" not in r), key=lambda r: str(r["time"]))
    return told + (events[-last:] if last else events)


def _printer(output: str) -> Callable[[Record], None]:
    if output == "json":
        return lambda record: click.echo(json.dumps(record, separators=(",", ":")))
    if output == "table":
        return _Table()
    from retina_otel.observe.lines import compact

    def show(record: Record) -> None:
        color = "red" if record["verdict"] == "dropped" else None
        where = f"{record['time'][:-7]}Z {record['node']}:"
        click.echo(f"{where} {click.style(compact(record), fg=color)}")

    return show


class _Table:
    """Rows under headings, as wide as the widest so far asks."""

    def __init__(self) -> None:
        from retina_otel.observe.lines import HEADINGS, columns

        self._columns = columns
        self._widths = [len(heading) for heading in HEADINGS]
        self._headings: tuple[str, ...] | None = HEADINGS

    def __call__(self, record: Record) -> None:
        row = self._columns(record)
        self._widths = [max(*pair) for pair in zip(self._widths, map(len, row), strict=True)]
        if self._headings is not None:
            self._print(self._headings)
            self._headings = None
        self._print(row)

    def _print(self, row: tuple[str, ...]) -> None:
        padded = (text.ljust(width) for text, width in zip(row, self._widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
        sys.stdout.flush()
