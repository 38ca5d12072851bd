"""Every alert, by promtool, on series that provoke it and on series that must not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from retina_otel.dashboards.alerts import alerts, rule_file
from retina_otel.testing.backends import promtool

MINUTES = 150
Values = str
"""A sample a minute, as promtool writes them."""


def at_node(name: str, values: Values, **labels: str) -> dict[str, Values]:
    return series(name, values, k8s_cluster_name="c", k8s_node_name="n", **labels)


def of_pod(name: str, values: Values, **labels: str) -> dict[str, Values]:
    """What the pod shop/web sends."""
    return series(
        name,
        values,
        k8s_cluster_name="c",
        source_k8s_namespace_name="shop",
        source_k8s_pod_name="web",
        network_interface_direction="egress",
        **labels,
    )


def agent(values: Values = f"1x{MINUTES}") -> dict[str, Values]:
    return at_node("retina_pipeline_series", values, job="retina-otel", instance="a")


def series(name: str, values: Values, **labels: str) -> dict[str, Values]:
    return {name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}": values}


def steady(value: float) -> Values:
    return f"{value}x{MINUTES}"


def growing(a_minute: int) -> Values:
    return f"0+{a_minute}x{MINUTES}"


def component(values: Values) -> dict[str, Values]:
    return at_node(
        "retina_component_status",
        values,
        retina_component_id="flows",
        retina_component_state="failed",
    )


def ledger(account: str, values: Values) -> dict[str, Values]:
    return at_node("retina_ledger_count_total", values, retina_ledger_account=account)


def coverage(ratio: float, packets: int) -> dict[str, Values]:
    return at_node("retina_coverage_ratio", steady(ratio), network_interface_name="e0") | at_node(
        "retina_coverage_packets", steady(packets), network_interface_name="e0"
    )


def requests(values: Values, error: str = "", signal: str = "metric") -> dict[str, Values]:
    labels = {"otel_component_type": f"otlp_http_{signal}_exporter"}
    labels |= {"error_type": error} if error else {}
    name = "retina_exporter_requests_total"
    return at_node(name, values, otel_component_name="otlp_http", **labels)


def flags(rst: int, syn: int) -> dict[str, Values]:
    name = "retina_tcp_flag_packets_total"
    return of_pod(name, growing(rst), retina_tcp_flag="rst") | of_pod(
        name, growing(syn), retina_tcp_flag="syn"
    )


def dropped(
    dropped: int, sent: int, told_as: str = "retina_flow_packets_total"
) -> dict[str, Values]:
    return of_pod("retina_drop_packets_total", growing(dropped)) | of_pod(told_as, growing(sent))


def errors(job: str) -> dict[str, Values]:
    name = "system_network_errors_total"
    return agent() | at_node(name, growing(60), job=job, instance="a", network_interface_name="e0")


def reload(outcome: str) -> dict[str, Values]:
    return at_node("retina_config_reloads_total", "0x140 1x10", retina_config_outcome=outcome)


PROVOKED: dict[str, tuple[dict[str, Values], dict[str, Values]]] = {
    "RetinaOtelAgentAway": (agent("1x120 _x30"), agent()),
    "RetinaOtelComponentInTrouble": (component(steady(1)), component(steady(0))),
    "RetinaOtelBooksDoNotClose": (
        at_node("retina_ledger_difference", steady(1)),
        at_node("retina_ledger_difference", steady(0)),
    ),
    # The first loss, of three; and three of long ago.
    "RetinaOtelLost": (
        ledger("lost", "0x140 3x10"),
        ledger("lost", "0x10 3x140") | ledger("seen", growing(1)),
    ),
    "RetinaOtelCoverageLow": (coverage(0.98, 10_000), coverage(1, 10_000)),
    "RetinaOtelExporterBlocked": (
        requests(growing(1), "timeout") | requests(steady(7)),
        requests(growing(1), "timeout") | requests(growing(1)),
    ),
    "RetinaOtelSeriesFolded": (
        at_node("retina_cardinality_folded_series", steady(5)),
        at_node("retina_cardinality_folded_series", steady(0)),
    ),
    "RetinaOtelConfigurationRefused": (reload("refused"), reload("applied")),
    "RetinaOtelPacketsDropped": (dropped(120, 6000), dropped(120, 60000)),
    "RetinaOtelConnectionsReset": (flags(120, 120), flags(120, 900)),
    "RetinaOtelInterfaceErrors": (errors("retina-otel"), errors("node")),
}
"""By alert: series that provoke it, and others, much alike, that must not."""

NOTHING_TO_COMPARE_WITH: dict[str, dict[str, Values]] = {
    # All is dropped within the pod, before its interface.
    "RetinaOtelPacketsDropped": of_pod("retina_drop_packets_total", growing(120)),
    # Nobody listens, so that it never sends a SYN or SYN-ACK.
    "RetinaOtelConnectionsReset": of_pod(
        "retina_tcp_flag_packets_total", growing(120), retina_tcp_flag="rst"
    ),
}
"""By alert that compares two metrics: the worst case, in which one has no series."""

HARMLESS: dict[str, tuple[str, dict[str, Values]]] = {
    "too few packets to judge a coverage by": (
        "RetinaOtelCoverageLow",
        coverage(0.5, 9_999),
    ),
    "a coverage on few packets beside one on many": (
        "RetinaOtelCoverageLow",
        coverage(0.5, 10)
        | at_node("retina_coverage_ratio", steady(1), network_interface_name="e1")
        | at_node("retina_coverage_packets", steady(10**6), network_interface_name="e1"),
    ),
    "an agent that starts anew and has lost nothing since": (
        "RetinaOtelLost",
        ledger("lost", "0x10 3x130 0x10"),
    ),
    "an agent that starts anew, as another pod": (
        "RetinaOtelLost",
        at_node("retina_ledger_count_total", "3x140 _x10", retina_ledger_account="lost", pod="a")
        | at_node("retina_ledger_count_total", "_x141 0x10", retina_ledger_account="lost", pod="b"),
    ),
    "few drops where `semconv_preview` names what is sent": (
        "RetinaOtelPacketsDropped",
        dropped(120, 60000, told_as="network_flow_packets_total"),
    ),
    "few drops where an agent just came to `semconv_preview`": (
        "RetinaOtelPacketsDropped",
        dropped(120, 60000, told_as="network_flow_packets_total")
        | of_pod("retina_flow_packets_total", f"0+60000x{MINUTES - 3}"),
    ),
}
"""What must not provoke an alert, beside what stands above."""

TELLING: dict[str, tuple[str, dict[str, Values]]] = {
    "a loss just after an agent has started anew": (
        "RetinaOtelLost",
        ledger("lost", "0x10 3x131 0x4 2x4"),
    ),
    "an exporter of which all events fail and all points pass": (
        "RetinaOtelExporterBlocked",
        requests(growing(1), "timeout", signal="log") | requests(growing(1), signal="metric"),
    ),
    "many drops where `semconv_preview` names what is sent": (
        "RetinaOtelPacketsDropped",
        dropped(120, 6000, told_as="network_flow_packets_total"),
    ),
}
"""What must provoke one, likewise."""


def test_every_alert_is_provoked_here() -> None:
    assert PROVOKED.keys() == {alert.name for alert in alerts()}


def test_promtool_finds_no_fault_in_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yaml"
    path.write_text(yaml.safe_dump(rule_file()))

    promtool(["check", "rules", "--lint=all", "--lint-fatal", str(path)])


@pytest.mark.parametrize("name", sorted(PROVOKED))
def test_an_alert_fires_when_it_should_and_not_otherwise(name: str, tmp_path: Path) -> None:
    provoking, harmless = PROVOKED[name]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule_file()))

    assert not is_silent(tmp_path, name, provoking)
    assert is_silent(tmp_path, name, harmless)


@pytest.mark.parametrize("name", sorted(NOTHING_TO_COMPARE_WITH))
def test_an_alert_fires_where_all_that_a_pod_does_fails(name: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule_file()))

    assert not is_silent(tmp_path, name, NOTHING_TO_COMPARE_WITH[name])


@pytest.mark.parametrize("what", sorted(HARMLESS))
def test_an_alert_is_silent_about(what: str, tmp_path: Path) -> None:
    name, given = HARMLESS[what]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule_file()))

    assert is_silent(tmp_path, name, given)


@pytest.mark.parametrize("what", sorted(TELLING))
def test_an_alert_fires_at(what: str, tmp_path: Path) -> None:
    name, given = TELLING[what]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rule_file()))

    assert not is_silent(tmp_path, name, given)


def is_silent(folder: Path, alert: str, given: dict[str, Values]) -> bool:
    """Whether the alert does not fire at the end of these series."""
    test = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": one, "values": v} for one, v in given.items()],
                "alert_rule_test": [
                    {"eval_time": f"{MINUTES - 2}m", "alertname": alert, "exp_alerts": []}
                ],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = promtool(["test", "rules", str(path)], check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 or f"alertname: {alert}" in said, said
    return done.returncode == 0
