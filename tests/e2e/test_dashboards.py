"""Every query of the dashboard, by a real Prometheus, on what an agent tells of the demo's lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.agent import own_metrics as own
from retina_otel.dashboards.alerts import alerts
from retina_otel.dashboards.grafana import dashboard
from retina_otel.dashboards.promql import PromQL
from retina_otel.testing.backends import Prometheus
from retina_otel.testing.demo_world import DemoWorld
from tests.e2e.agent import Agent, wait_until

WELL = {
    "Components in trouble",
    "Lost",
    "No room for",
    "Requests that failed",
}
"""Panels that are empty while all is well."""

VARIABLES = {
    "$__rate_interval": "10s",
    "$cluster": "demo",
    "$node": "node-1",
    "$namespace": ".*",
    "$top": "10",
}


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def queries() -> dict[str, list[str]]:
    """By title of the panel."""
    return {
        panel["title"]: [filled(target["expr"]) for target in panel["targets"]]
        for panel in dashboard()["panels"]
        if panel["type"] != "row"
    }


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Holds half a minute of the demo's lab."""
    folder = tmp_path_factory.mktemp("dashboards")
    with DemoWorld() as world, Prometheus(folder, namespace=world.lab.node) as prometheus:
        (folder / "identity.yaml").write_text(yaml.safe_dump(dict(world.identity())))
        config = folder / "agent.yaml"
        config.write_text(yaml.safe_dump(configuration(folder, prometheus)))
        agent = Agent(world.lab.node, config)
        agent.start()
        try:
            world.start()
            wait_until(lambda: shows_rates(prometheus), "a rate of drops, and coverage", 40)
            yield prometheus
        finally:
            world.stop()
            agent.stop()


def shows_rates(prometheus: Prometheus) -> bool:
    """The last to come: a sender must be refused first, an interface be looked at twice."""
    late = [*queries()["Drops by pair"], *queries()["Lowest coverage"]]
    return all(map(prometheus.query, late))


def configuration(folder: Path, prometheus: Prometheus) -> dict[str, Any]:
    receivers = ["flows", "drops", "interfaces"]
    return {
        "extensions": {"static_identity": {"path": str(folder / "identity.yaml")}},
        "receivers": {"flows": {}, "drops": {"namespaces": "node"}, "interfaces": {}},
        "processors": {"identity": {}},
        "exporters": {"otlp_http": {"endpoint": prometheus.otlp_url, "interval": "1s"}},
        "service": {
            "extensions": ["static_identity"],
            "interval": "1s",
            "telemetry": {
                "resource": {"k8s.cluster.name": "demo", "k8s.node.name": "node-1"},
                "metrics": {"interval": "1s"},
            },
            "pipelines": {
                "metrics": {
                    "receivers": receivers,
                    "processors": ["identity"],
                    "exporters": ["otlp_http"],
                }
            },
        },
    }


@pytest.mark.parametrize("title", sorted(queries().keys() - WELL))
def test_a_panel_shows_the_lab(prometheus: Prometheus, title: str) -> None:
    for query in queries()[title]:
        assert prometheus.query(query), query


@pytest.mark.parametrize("title", sorted(WELL))
def test_a_panel_of_troubles_is_empty_while_all_is_well(prometheus: Prometheus, title: str) -> None:
    for query in queries()[title]:
        assert prometheus.query(query) == []


def test_the_books_close_on_the_dashboard(prometheus: Prometheus) -> None:
    (query,) = queries()["Books that do not close"]

    assert [value for _, value in prometheus.query(query)] == [0.0]


def test_every_coverage_says_on_how_many_packets_it_rests(prometheus: Prometheus) -> None:
    """With the same labels: the alert joins them."""
    ratio, packets = (PromQL().series(one) for one in (own.COVERAGE, own.COVERAGE_PACKETS))

    assert prometheus.query(ratio) != []
    assert prometheus.query(f"{ratio} unless {packets} > 0") == []


def test_the_pairs_on_the_dashboard_are_those_that_talk(prometheus: Prometheus) -> None:
    (query,) = queries()["Drops by pair"]

    assert {
        (labels.get("source_k8s_pod_name"), labels.get("destination_k8s_pod_name"))
        for labels, _ in prometheus.query(query)
    } >= {("web", "db")}


def test_no_alert_fires_in_a_lab_where_all_is_well_but_for_what_its_firewall_drops(
    prometheus: Prometheus,
) -> None:
    firing = {alert.name for alert in alerts() if prometheus.query(alert.expression)}

    assert firing - {"RetinaOtelPacketsDropped", "RetinaOtelConnectionsReset"} == set()
