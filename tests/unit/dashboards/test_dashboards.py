"""The dashboard and the alert rules as made from the signals: their form.

What their queries find is tested with a real Prometheus.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from retina_otel.agent import own_metrics as own
from retina_otel.cli.dashboards import command
from retina_otel.dashboards.alerts import alerts
from retina_otel.dashboards.grafana import dashboard
from retina_otel.dashboards.promql import NODE, Label, Match, PromQL
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.model import signals

CHECKED_IN = Path(__file__).parents[3] / "charts" / "retina-otel" / "files"


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_query_that_names_what_a_metric_does_not_have_cannot_be_written():
    with pytest.raises(ValueError, match=r"retina\.coverage has no attribute retina\.drop\.reason"):
        PromQL().series(own.COVERAGE, Match(Label.of(signals.DROP_REASON), "x"))


def test_names_follow_the_strategy_and_what_is_not_classic_is_quoted():
    query = (signals.FLOW_IO, Match(NODE, "a"))

    assert PromQL().series(*query) == 'retina_flow_io_bytes_total{k8s_node_name="a"}'
    assert (
        PromQL(TranslationStrategy.NO_TRANSLATION).series(*query)
        == '{"retina.flow.io","k8s.node.name"="a"}'
    )


def test_flows_are_found_by_both_names_that_an_agent_may_give_them():
    """`semconv_preview` has those of the conventions' draft."""
    assert PromQL().rate(signals.FLOW_IO, Match(NODE, "a"), window="5m") == (
        '(rate(retina_flow_io_bytes_total{k8s_node_name="a"}[5m])'
        ' or rate(network_flow_io_bytes_total{k8s_node_name="a"}[5m]))'
    )
    assert PromQL().rate(signals.DROP_IO, window="5m") == "rate(retina_drop_io_bytes_total[5m])"
    queries = [
        variable["query"]["query"]
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    found = '{__name__=~"retina_flow_io_bytes_total|network_flow_io_bytes_total"}'
    assert [query for query in queries if found not in query] == []


def test_no_panel_lies_on_another_and_each_has_a_number_of_its_own():
    panels = dashboard()["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_panel_and_alert_says_what_it_is_for():
    shown = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]

    assert [panel["title"] for panel in shown if not panel["description"]] == []
    assert [alert.name for alert in alerts() if not (alert.summary and alert.description)] == []


def test_no_two_queries_of_a_panel_are_told_by_the_same_legend():
    for panel in dashboard()["panels"]:
        legends = [target["legendFormat"] for target in panel.get("targets", ())]
        assert len(set(legends)) == len(legends), panel["title"]


def test_nodes_and_pods_of_equal_names_in_two_clusters_are_not_added():
    queries = [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]
    grouped = [
        labels.split(", ")
        for query in (*queries, *(alert.expression for alert in alerts()))
        for labels in re.findall(r"sum by \((.*?)\)", query)
    ]
    assert len(grouped) > 10
    of_a_cluster = re.compile(r"k8s_node_name|k8s_pod_name|k8s_namespace_name")
    assert [
        labels
        for labels in grouped
        if any(map(of_a_cluster.search, labels)) and "k8s_cluster_name" not in labels
    ] == []


def test_no_alert_has_the_name_of_another():
    names = [alert.name for alert in alerts()]

    assert len(set(names)) == len(names)


def test_what_is_checked_in_is_what_the_command_prints():
    assert (CHECKED_IN / "dashboard.json").read_text() == printed("grafana")
    assert (CHECKED_IN / "alerts.yaml").read_text() == printed("alerts")
    assert json.loads(printed("grafana"))["uid"] == "retina-otel"
    assert len(yaml.safe_load(printed("alerts"))["groups"]) == 2
