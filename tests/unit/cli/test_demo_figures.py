"""Scrapes and the sums that the demo makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retina_otel.cli.demo.checks import Equality
from retina_otel.cli.demo.figures import Drop, Flow, figures
from retina_otel.cli.demo.otlp import event_sum, last_sum
from retina_otel.errors import RetinaError
from retina_otel.testing.demo_world import dns_answer, dns_query
from retina_otel.testing.scrape import samples

PAGE = r"""
# TYPE retina_flow_packets_total counter
retina_flow_packets_total{source_k8s_pod_name="web",source_k8s_namespace_name="shop",destination_cidr="outside",network_transport="tcp",network_type="ipv4",network_interface_direction="egress"} 17
retina_flow_packets_total{source_k8s_pod_name="web",source_k8s_namespace_name="shop",destination_cidr="outside",network_transport="tcp",network_type="ipv6",network_interface_direction="egress"} 13
retina_flow_packets_total{source_k8s_node_name="node-1",network_transport="udp",network_interface_direction="ingress"} 5
retina_flow_io_bytes_total{source_k8s_pod_name="web",source_k8s_namespace_name="shop",destination_cidr="outside",network_transport="tcp",network_interface_direction="egress"} 3000
retina_drop_packets_total{retina_drop_reason="netfilter_drop",network_transport="udp"} 7
retina_ledger_count_total{retina_ledger_name="receiver/flows",retina_ledger_account="seen"} 40
retina_ledger_count_total{retina_ledger_name="receiver/flows",retina_ledger_account="lost",retina_ledger_reason="ring"} 2
retina_ledger_count_total{retina_ledger_name="receiver/flows",retina_ledger_account="lost",retina_ledger_reason="table"} 3
retina_ledger_difference{retina_ledger_name="receiver/flows"} 0
retina_coverage_ratio{retina_ledger_name="receiver/flows",network_interface_name="veth-web"} 1
retina_component_status{retina_component_kind="receiver",retina_component_id="flows",retina_component_state="running"} 1
retina_component_status{retina_component_kind="receiver",retina_component_id="flows",retina_component_state="failed"} 0
"""  # noqa: E501


def test_samples_of_one_pair_are_added_up() -> None:
    seen = figures(samples(PAGE))
    flow = Flow("shop/web", "outside", "tcp", "egress")
    assert (seen.packets[flow], seen.bytes[flow]) == (30, 3000)
    assert seen.leaving("shop/web") == (30, 3000)
    assert seen.packets[Flow("node-1", "unknown", "udp", "ingress")] == 5
    assert seen.drops == {Drop("netfilter_drop", "unknown", "unknown", "udp"): 7}


def test_a_ledger_keeps_its_reasons() -> None:
    books = figures(samples(PAGE)).books["receiver/flows"]
    assert books.accounts == {"seen": 40, "lost": 5}
    assert books.lost == {"ring": 2, "table": 3}


def test_states_and_coverage_are_read() -> None:
    seen = figures(samples(PAGE))
    assert seen.states == {"flows": "running"}
    assert seen.coverage == {"veth-web": 1.0}


def test_label_values_are_unescaped() -> None:
    (sample,) = samples(r'a_total{path="C:\\new\nline",quote="\"}\"",comma="x,y=z"} 1e3')
    assert dict(sample.labels) == {"path": "C:\\new\nline", "quote": '"}"', "comma": "x,y=z"}
    assert sample.value == 1000


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(RetinaError, match="not a sample"):
        list(samples("<html>"))


def test_numbers_that_differ_make_no_equality() -> None:
    assert Equality("flows", "packets", (("a", 3), ("b", 3))).holds
    assert not Equality("flows", "packets", (("a", 3), ("b", 3), ("c", 4))).holds


def test_the_last_value_of_each_series_of_a_file_counts(tmp_path: Path) -> None:
    def line(value: int, pod: str, flags: int = 0) -> str:
        point = {"attributes": [{"key": "pod", "value": {"stringValue": pod}}], "flags": flags}
        point |= {"startTimeUnixNano": "1", "asInt": str(value)}
        metric = {"name": "retina.flow.packets", "sum": {"dataPoints": [point]}}
        return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})

    path = tmp_path / "otlp.jsonl"
    path.write_text("\n".join([line(3, "a"), line(5, "b"), line(7, "a"), line(0, "a", 1)]) + "\n")
    assert last_sum(path, "retina.flow.packets") == 12


def test_events_of_a_file_are_added_up_by_an_attribute(tmp_path: Path) -> None:
    records = [
        {
            "eventName": name,
            "attributes": [{"key": "retina.event.packets", "value": {"intValue": count}}],
        }
        for name, count in (("retina.drop", "3"), ("retina.drop", "4"), ("retina.flow", "100"))
    ]
    path = tmp_path / "otlp.jsonl"
    path.write_text(json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}) + "\n")
    assert event_sum(path, "retina.drop", "retina.event.packets") == 7


def test_a_dns_answer_repeats_the_question() -> None:
    query = dns_query("api.shop")
    answer = dns_answer(query)
    assert query[12:] == b"\x03api\x04shop\x00\x00\x01\x00\x01"
    assert answer[:2] == query[:2]
    assert answer[12 : len(query)] == query[12:]
    assert answer[-4:] == bytes([10, 244, 0, 1])
