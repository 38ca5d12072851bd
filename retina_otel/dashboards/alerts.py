"""Alert rules for Prometheus: what needs a person, as a rule file (or the `groups` of a
PrometheusRule). Each says what it means and what to do first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retina_otel.agent import own_metrics as own
from retina_otel.dashboards.promql import CLUSTER, NODE, Label, Match, PromQL
from retina_otel.encode.prometheus.names import DEFAULT_STRATEGY, TranslationStrategy
from retina_otel.model import signals

_LEDGER = Label.of(own.LEDGER_NAME)
_UNIT = Label.of(own.LEDGER_UNIT)
_REASON = Label.of(own.LEDGER_REASON)
_EXPORTER = Label.of(own.OTEL_COMPONENT_NAME)
_EXPORTER_TYPE = Label.of(own.OTEL_COMPONENT_TYPE)
_ERROR = Label.of(signals.ERROR_TYPE)
_COMPONENT = Label.of(own.COMPONENT_ID)
_STATE = Label.of(own.COMPONENT_STATE)
_METRIC = Label.of(own.METRIC_NAME)
_OUTCOME = Label.of(own.RELOAD_OUTCOME)
_INTERFACE = Label.of(signals.NETWORK_INTERFACE_NAME)
_DIRECTION = Label.of(signals.NETWORK_INTERFACE_DIRECTION)
_FLAG = Label.of(signals.TCP_FLAG)


_ENOUGH_PACKETS = 10_000
"""That a coverage must rest on. The agent's counters and the interface's are read one after the
other, and attached one after the other: some packets fall between. One in a hundred is then a
hundred packets at least, which are not those."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule. `lasting` is how long the expression must hold, in Prometheus' form."""

    name: str
    expression: str
    lasting: str
    severity: str  # "warning" | "critical"
    summary: str
    description: str


def alerts(strategy: TranslationStrategy = DEFAULT_STRATEGY) -> tuple[Alert, ...]:
    """All alerts: first those about the agents, since the others rest on their numbers."""
    promql = PromQL(strategy)
    return (*_about_agents(promql), *_about_the_network(promql))


def rule_file(strategy: TranslationStrategy = DEFAULT_STRATEGY) -> dict[str, Any]:
    """The rule file's content, as YAML or JSON takes it."""
    promql = PromQL(strategy)
    return {
        "groups": [
            {"name": "retina-otel agents", "rules": [_rule(a) for a in _about_agents(promql)]},
            {
                "name": "retina-otel network",
                "rules": [_rule(a) for a in _about_the_network(promql)],
            },
        ]
    }


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }


def _value_of(promql: PromQL, label: Label) -> str:
    """The label's value, in an annotation's template."""
    return f'{{{{ index $labels "{promql.plain_label(label)}" }}}}'


def _about_agents(q: PromQL) -> tuple[Alert, ...]:
    node = _value_of(q, NODE)
    place = (CLUSTER, NODE)

    def value(label: Label) -> str:
        return _value_of(q, label)

    reporting = q.sum_by(place, q.series(own.PIPELINE_SERIES))
    earlier = q.sum_by(place, q.series(own.PIPELINE_SERIES) + " offset 1h")
    troubled = q.series(own.COMPONENT_STATUS, Match(_STATE, "degraded|failed", "=~"))
    lost = q.increase(own.LEDGER_COUNT, Match(Label.of(own.LEDGER_ACCOUNT), "lost"), window="10m")
    tried = [*place, _EXPORTER, _EXPORTER_TYPE]
    failed = q.increase(own.EXPORTER_REQUESTS, Match(_ERROR, ".+", "=~"), window="10m")
    passed = q.increase(own.EXPORTER_REQUESTS, Match(_ERROR, ""), window="10m")
    refused = q.increase(own.CONFIG_RELOADS, Match(_OUTCOME, "refused"), window="15m")
    return (
        Alert(
            "RetinaOtelAgentAway",
            f"{earlier} unless {reporting}",
            "5m",
            "warning",
            f"The agent of {node} no longer reports",
            "It reported an hour ago. See the pod on that node, and its log; a node that was taken "
            "away ends this alert after an hour.",
        ),
        Alert(
            "RetinaOtelComponentInTrouble",
            f"{q.sum_by([*place, _COMPONENT, _STATE], troubled)} > 0",
            "10m",
            "warning",
            f"{value(_COMPONENT)} on {node} is {value(_STATE)}",
            "It works with less than it should, or not at all. The agent's log and its health "
            "endpoint give the reason and the remedy.",
        ),
        Alert(
            "RetinaOtelBooksDoNotClose",
            f"{q.series(own.LEDGER_DIFFERENCE)} != 0",
            "5m",
            "critical",
            f"The ledger of {value(_LEDGER)} on {node} does not close",
            "What was seen is not the sum of its accounts: a defect of the agent. Report it with "
            "the output of the health endpoint.",
        ),
        Alert(
            "RetinaOtelLost",
            f"{q.sum_by([*place, _LEDGER, _REASON, _UNIT], lost)} > 0",
            "0m",
            "warning",
            f"{value(_LEDGER)} on {node} lost {value(_UNIT)}: {value(_REASON)}",
            "The numbers of the last ten minutes are too low by {{ $value }}. How to read the "
            "ledger tells what each reason wants.",
        ),
        Alert(
            "RetinaOtelCoverageLow",
            f"{q.series(own.COVERAGE)} < 0.99 "
            f"and {q.series(own.COVERAGE_PACKETS)} >= {_ENOUGH_PACKETS}",
            "10m",
            "warning",
            f"Traffic at {value(_INTERFACE)} on {node} bypasses the agent",
            f"The interface counted more than the agent saw there, of at least {_ENOUGH_PACKETS} "
            "packets. Some CNIs redirect packets past the hooks of the host's side.",
        ),
        Alert(
            "RetinaOtelExporterBlocked",
            f"{q.sum_by(tried, failed)} > 0 unless {q.sum_by(tried, passed)} > 0",
            "10m",
            "critical",
            f"{value(_EXPORTER)} ({value(_EXPORTER_TYPE)}) on {node} delivers nothing",
            "Every request of the last ten minutes failed, of metrics or of logs. Seen only where "
            "the agent's own metrics still arrive; without them it counts as away.",
        ),
        Alert(
            "RetinaOtelSeriesFolded",
            f"{q.sum_by([*place, _METRIC], q.series(own.FOLDED_SERIES))} > 0",
            "15m",
            "warning",
            f"{value(_METRIC)} on {node} has more series than its budget",
            "{{ $value }} series are counted in the overflow. `retina-otel cardinality` shows what "
            "each attribute costs.",
        ),
        Alert(
            "RetinaOtelConfigurationRefused",
            f"{q.sum_by(place, refused)} > 0",
            "0m",
            "warning",
            f"The agent of {node} refused its new configuration",
            "It goes on with the old one. `retina-otel validate --config FILE` names the fault.",
        ),
    )


def _about_the_network(q: PromQL) -> tuple[Alert, ...]:
    def value(label: Label) -> str:
        return _value_of(q, label)

    namespace = Label.source(signals.K8S_NAMESPACE_NAME)
    pod = Label.source(signals.K8S_POD_NAME)
    sender = [CLUSTER, namespace, pod]
    is_pod = Match(pod, ".+", "=~")
    leaves = Match(_DIRECTION, "egress")
    dropped = q.rate(signals.DROP_PACKETS, is_pod, window="5m")
    sent = q.rate(signals.FLOW_PACKETS, is_pod, leaves, window="5m")
    resets = q.rate(signals.TCP_FLAG_PACKETS, is_pod, leaves, Match(_FLAG, "rst"), window="5m")
    opened = q.rate(
        signals.TCP_FLAG_PACKETS, is_pod, leaves, Match(_FLAG, "syn|syn_ack", "=~"), window="5m"
    )
    at = [CLUSTER, NODE, _INTERFACE]
    errors = q.ours(q.rate(signals.INTERFACE_ERRORS, window="5m"), own.PIPELINE_SERIES)
    return (
        Alert(
            "RetinaOtelPacketsDropped",
            # Not `and ... >`: who has all dropped has sent nothing to compare with.
            f"{q.sum_by(sender, dropped)} > 1 unless "
            f"{q.sum_by(sender, dropped)} <= 0.01 * {q.sum_by(sender, sent)}",
            "10m",
            "warning",
            f"Packets of {value(namespace)}/{value(pod)} are dropped",
            "More than one in a hundred packets that this pod sends, {{ $value | humanize }} a "
            "second. Drops by reason says why: a network policy, a full queue, no route.",
        ),
        Alert(
            "RetinaOtelConnectionsReset",
            f"{q.sum_by(sender, resets)} > 1 unless "
            f"{q.sum_by(sender, resets)} <= 0.5 * {q.sum_by(sender, opened)}",
            "10m",
            "warning",
            f"{value(namespace)}/{value(pod)} resets its connections",
            "It sends more than one reset for two connections that it opens or takes: nobody "
            "listens at a port, or a program gives up.",
        ),
        Alert(
            "RetinaOtelInterfaceErrors",
            f"{q.sum_by(at, errors)} > 0.1",
            "10m",
            "warning",
            f"{value(_INTERFACE)} of {value(NODE)} has errors",
            "The device or its driver counts errors: cable, offloads, firmware.",
        ),
    )
