"""What the dashboard shows, as data: rows of panels, each with its queries and what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from retina_otel.agent import own_metrics as own
from retina_otel.dashboards.promql import CLUSTER, NODE, Label, Match, PromQL
from retina_otel.model import signals

WINDOW = "$__rate_interval"
"""Grafana's own: four scrape intervals, at least the step."""
TOP = "$top"
_ANY_CLUSTER = Match(CLUSTER, "$cluster", "=~")
_ANY_NODE = Match(NODE, "$node", "=~")
_A_NODE = (CLUSTER, NODE)
"""What makes a node: its name is one only within a cluster."""
_ENDS = (Label.source, Label.destination)
_NAMESPACE = signals.K8S_NAMESPACE_NAME
_POD = signals.K8S_POD_NAME
_DIRECTION = Label.of(signals.NETWORK_INTERFACE_DIRECTION)
_INTERFACE = Label.of(signals.NETWORK_INTERFACE_NAME)
_IO_DIRECTION = Label.of(signals.NETWORK_IO_DIRECTION)
_REASON = Label.of(signals.DROP_REASON)
_FLAG = Label.of(signals.TCP_FLAG)
_LEDGER = Label.of(own.LEDGER_NAME)
_ACCOUNT = Label.of(own.LEDGER_ACCOUNT)
_LEDGER_REASON = Label.of(own.LEDGER_REASON)
_UNIT = Label.of(own.LEDGER_UNIT)
_EXPORTER = Label.of(own.OTEL_COMPONENT_NAME)
_ERROR = Label.of(signals.ERROR_TYPE)
_STATE = Label.of(own.COMPONENT_STATE)
_COMPONENT = Label.of(own.COMPONENT_ID)


class Shape(Enum):
    """Grafana's panel types that we use."""

    STAT = "stat"
    TIME_SERIES = "timeseries"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` is Grafana's template: labels in double braces."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. `unit` is Grafana's name of a unit; `width` in 24ths of the page."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    shape: Shape = Shape.TIME_SERIES
    width: int = 12
    bad_above: float | None = None
    """A stat turns red above this."""
    bad_below: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def rows(promql: PromQL) -> Sequence[Row]:
    """The whole dashboard, by the names of one translation strategy."""
    return (
        Row("At a glance", _overview(promql)),
        Row("Traffic of workloads", _traffic(promql)),
        Row("Drops and resets", _drops(promql)),
        Row("Nodes and interfaces", _interfaces(promql)),
        Row("Agents: are the numbers complete?", _agents(promql)),
    )


def _legend(promql: PromQL, *labels: Label, between: str = " ") -> str:
    return between.join(f"{{{{{promql.plain_label(label)}}}}}" for label in labels)


def _overview(q: PromQL) -> tuple[Panel, ...]:
    here = (_ANY_CLUSTER, _ANY_NODE)
    egress = Match(_DIRECTION, "egress")
    return (
        Panel(
            "Agents",
            "Nodes whose agent reported within the last five minutes.",
            (Query(f"count({q.sum_by(_A_NODE, q.series(own.PIPELINE_SERIES, *here))})"),),
            "short",
            Shape.STAT,
            4,
        ),
        Panel(
            "Sent by workloads",
            "Bytes a second that pods, and nodes themselves, send: each counted once, at its "
            "sender.",
            (Query(f"sum({q.rate(signals.FLOW_IO, *here, egress, window=WINDOW)})"),),
            "Bps",
            Shape.STAT,
            4,
        ),
        Panel(
            "Packets sent by workloads",
            "Packets a second that pods, and nodes themselves, send.",
            (Query(f"sum({q.rate(signals.FLOW_PACKETS, *here, egress, window=WINDOW)})"),),
            "pps",
            Shape.STAT,
            4,
        ),
        Panel(
            "Dropped",
            "Packets a second that the kernels of these nodes dropped.",
            (Query(f"sum({q.rate(signals.DROP_PACKETS, *here, window=WINDOW)})"),),
            "pps",
            Shape.STAT,
            4,
        ),
        Panel(
            "Lowest coverage",
            "What was counted over what the interface itself counted, at the worst interface. "
            "Below 1 something bypasses the agent there.",
            (Query(f"min({q.series(own.COVERAGE, *here)})"),),
            "percentunit",
            Shape.STAT,
            4,
            bad_below=0.99,
        ),
        Panel(
            "Books that do not close",
            "Ledgers whose accounts do not add up to what was seen. Not 0 is a defect: report it.",
            (Query(f"count({q.series(own.LEDGER_DIFFERENCE, *here)} != 0) or vector(0)"),),
            "short",
            Shape.STAT,
            4,
            bad_above=0,
        ),
    )


def _traffic(q: PromQL) -> tuple[Panel, ...]:
    here = (_ANY_CLUSTER, _ANY_NODE)
    panels = []
    for direction, end, words in (
        ("egress", Label.source, "Sent by"),
        ("ingress", Label.destination, "Received by"),
    ):
        chosen = (
            *here,
            Match(_DIRECTION, direction),
            Match(end(_NAMESPACE), "$namespace", "=~"),
            Match(end(_POD), ".+", "=~"),
        )
        labels = (end(_NAMESPACE), end(_POD))
        rate = q.rate(signals.FLOW_IO, *chosen, window=WINDOW)
        panels.append(
            Panel(
                f"{words} pod",
                "Bytes a second as the wire sees them, at the pod's own interface.",
                (
                    Query(
                        f"topk({TOP}, {q.sum_by([CLUSTER, *labels], rate)})",
                        _legend(q, *labels, between="/"),
                    ),
                ),
                "Bps",
            )
        )
    owners = tuple(end(one) for end in _ENDS for one in (_NAMESPACE, signals.K8S_OWNER_NAME))
    pairs = q.rate(signals.FLOW_IO, *here, Match(_DIRECTION, "egress"), window=WINDOW)
    panels.append(
        Panel(
            "Who talks to whom",
            "Bytes a second between workloads, counted where they leave. An empty name is an end "
            "that is no workload: a node, the world, or one that is not known.",
            (
                Query(
                    f"topk({TOP}, {q.sum_by([CLUSTER, *owners], pairs)})",
                    _legend(q, *owners[:2], between="/")
                    + " → "
                    + _legend(q, *owners[2:], between="/"),
                ),
            ),
            "Bps",
            Shape.TABLE,
            24,
        )
    )
    return tuple(panels)


def _drops(q: PromQL) -> tuple[Panel, ...]:
    here = (_ANY_CLUSTER, _ANY_NODE)
    dropped = q.rate(signals.DROP_PACKETS, *here, window=WINDOW)
    ends = tuple(end(one) for end in _ENDS for one in (_NAMESPACE, _POD))
    flags = q.rate(signals.TCP_FLAG_PACKETS, *here, Match(_DIRECTION, "egress"), window=WINDOW)
    return (
        Panel(
            "Drops by reason",
            "Packets a second, by the kernel's own reason.",
            (Query(q.sum_by([_REASON], dropped), _legend(q, _REASON)),),
            "pps",
        ),
        Panel(
            "Drops by pair",
            "Packets a second, by the ends that the packets named.",
            (
                Query(
                    f"topk({TOP}, {q.sum_by([CLUSTER, *ends], dropped)})",
                    _legend(q, *ends[:2], between="/") + " → " + _legend(q, *ends[2:], between="/"),
                ),
            ),
            "pps",
        ),
        Panel(
            "TCP packets by flag",
            "Packets a second that pods send with this flag. Many `rst` or `syn` without `syn_ack` "
            "are connections that fail.",
            (Query(q.sum_by([_FLAG], flags), _legend(q, _FLAG)),),
            "pps",
            width=24,
        ),
    )


def _interfaces(q: PromQL) -> tuple[Panel, ...]:
    here = (_ANY_CLUSTER, _ANY_NODE)
    labels = (NODE, _INTERFACE, _IO_DIRECTION)
    legend = _legend(q, *labels)

    def top(metric: signals.Metric, what: str = "") -> Query:
        rate = q.ours(q.rate(metric, *here, window=WINDOW), own.PIPELINE_SERIES)
        return Query(f"topk({TOP}, {q.sum_by([CLUSTER, *labels], rate)})", legend + what)

    return (
        Panel("Interfaces", "Bytes a second by the interface's own counters.",
              (top(signals.INTERFACE_IO),), "Bps"),
        Panel("Interface errors and drops", "A second, by the interface's own counters.",
              (top(signals.INTERFACE_ERRORS, " errors"),
               top(signals.INTERFACE_DROPPED, " dropped")), "pps"),
    )  # fmt: skip


def _agents(q: PromQL) -> tuple[Panel, ...]:
    here = (_ANY_CLUSTER, _ANY_NODE)
    lost = q.rate(own.LEDGER_COUNT, *here, Match(_ACCOUNT, "lost"), window=WINDOW)
    lost_by = (_LEDGER, _LEDGER_REASON, _UNIT)
    failed = q.rate(own.EXPORTER_REQUESTS, *here, Match(_ERROR, ".+", "=~"), window=WINDOW)
    cpu = q.ours(q.rate(own.PROCESS_CPU_TIME, *here, window=WINDOW), own.PIPELINE_SERIES)
    memory = q.ours(q.series(own.PROCESS_MEMORY_USAGE, *here), own.PIPELINE_SERIES)
    folded = q.series(own.FOLDED_SERIES, *here)
    folded_by = (Label.of(own.METRIC_NAME), Label.of(_NAMESPACE))
    troubled = q.series(own.COMPONENT_STATUS, *here, Match(_STATE, "degraded|failed", "=~"))
    return (
        Panel(
            "Components in trouble",
            "Components that are degraded or failed; the agent's log says why.",
            (
                Query(
                    f"{q.sum_by([*_A_NODE, _COMPONENT, _STATE], troubled)} > 0",
                    _legend(q, NODE, _COMPONENT, _STATE),
                ),
            ),
            "short",
            Shape.TABLE,
        ),
        Panel(
            "Coverage by interface",
            "What was counted over what the interface itself counted: 1 is complete.",
            (
                Query(
                    f"bottomk({TOP}, {q.series(own.COVERAGE, *here)})",
                    _legend(q, NODE, _INTERFACE),
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Lost",
            "What was seen and could not be told, by ledger and reason, a second.",
            (Query(f"{q.sum_by(lost_by, lost)} > 0", _legend(q, *lost_by)),),
            "cps",
        ),
        Panel(
            "Requests that failed",
            "A second, by exporter and error; retries count.",
            (Query(q.sum_by((_EXPORTER, _ERROR), failed), _legend(q, _EXPORTER, _ERROR)),),
            "reqps",
        ),
        Panel(
            "CPU of agents",
            "Cores.",
            (Query(q.sum_by(_A_NODE, cpu), _legend(q, NODE)),),
            "none",
            width=8,
        ),
        Panel(
            "Memory of agents",
            "Resident memory.",
            (Query(q.sum_by(_A_NODE, memory), _legend(q, NODE)),),
            "bytes",
            width=8,
        ),
        Panel(
            "Series",
            "Live series of an agent.",
            (Query(q.sum_by(_A_NODE, q.series(own.PIPELINE_SERIES, *here)), _legend(q, NODE)),),
            "short",
            width=8,
        ),
        Panel(
            "No room for",
            "Series beyond the budget of their metric, by namespace: their counts are in the "
            "overflow.",
            (Query(q.sum_by([CLUSTER, *folded_by], folded), _legend(q, *folded_by)),),
            "short",
            width=24,
        ),
    )
