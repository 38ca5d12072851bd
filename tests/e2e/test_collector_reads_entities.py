"""`resource_model: entity`: the Collector reads each pod's points under one resource of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.encode.otlp.json_lines import JsonMetricsEncoder
from retina_otel.model.signals import FLOW_PACKETS, INTERFACE_PACKETS, INTERFACE_UP
from retina_otel.pipeline.points import ResourceModel
from retina_otel.testing import traffic
from retina_otel.testing.backends import Collector
from retina_otel.testing.lab import Lab
from retina_otel.testing.points import Point, point_block
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import Agent

CONFIG = """
extensions:
  static_identity: {{path: {identity}}}
receivers:
  flows: {{}}
  interfaces: {{}}
processors:
  identity: {{}}
exporters:
  otlp_http: {{endpoint: "{endpoint}", interval: 1s, resource_model: entity, entity_refs: true}}
  file: {{path: {flat}, interval: 1s}}
service:
  interval: 500ms
  extensions: [static_identity]
  telemetry: {{metrics: {{enabled: false}}, resource: {{k8s.node.name: {node}}}}}
  pipelines:
    metrics:
      receivers: [flows, interfaces]
      processors: [identity]
      exporters: [otlp_http, file]
"""
POD_KEYS = ("k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid", "k8s.owner.name")


@pytest.fixture
def lab():
    with Lab("shop/web", "shop/api", "shop/db") as made:
        yield made


@pytest.fixture
def of_node(lab: Lab, tmp_path: Path):
    with Collector("first-light", tmp_path, namespace=lab.node) as instance:
        yield instance


def plain(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


def last_values(lines: list[dict[str, Any]]) -> dict[tuple[Any, ...], int]:
    """The last value of each series, by metric, resource and attributes."""
    out: dict[tuple[Any, ...], int] = {}
    for line in lines:
        for one in line["resourceMetrics"]:
            resource = frozenset(plain(one["resource"]["attributes"]).items())
            for metric in (m for scope in one["scopeMetrics"] for m in scope["metrics"]):
                for point in metric["sum"]["dataPoints"]:
                    own = frozenset(plain(point["attributes"]).items())
                    if "asInt" in point:
                        out[metric["name"], resource, own] = int(point["asInt"])
    return out


def test_each_pod_has_its_interface_and_flows_stay_the_agents(lab, of_node, tmp_path):
    flat = tmp_path / "flat.jsonl"
    config = tmp_path / "agent.yaml"
    identity = lab.write_identity(tmp_path / "identity.yaml")
    config.write_text(
        CONFIG.format(identity=identity, endpoint=of_node.endpoint, flat=flat, node=lab.node_name)
    )
    agent = Agent(lab.node, config)
    web, api = lab.pod("web"), lab.pod("api")
    try:
        agent.start()
        with UdpServer(api, api.ipv4, 5353) as server:
            sent = traffic.udp(web, server.to, packets=1009).packets
    finally:
        assert agent.stop() == 0
        print(agent.log())
    of_node.stop()

    by_entity = last_values(of_node.lines())
    by_flat = last_values([json.loads(line) for line in flat.read_text().splitlines()])
    pods = {pod.identity.uid: pod.identity.name for pod in (web, api, lab.pod("db"))}

    found: Counter[tuple[str, str]] = Counter()
    for (metric, resource, own), value in by_entity.items():
        known = dict(resource)
        if metric == INTERFACE_PACKETS.name and "k8s.pod.uid" in known:
            assert known["k8s.pod.name"] == pods[known["k8s.pod.uid"]]
            assert known["k8s.node.name"] == lab.node_name
            assert "service.name" not in known
            assert {key for key, _ in own} == {"system.device", "network.io.direction"}
            found[known["k8s.pod.name"], dict(own)["network.io.direction"]] += value
    assert found == {
        ("web", "receive"): sent,
        ("web", "transmit"): 0,
        ("api", "receive"): 0,
        ("api", "transmit"): sent,
        ("db", "receive"): 0,
        ("db", "transmit"): 0,
    }

    of_agent = {dict(r)["service.name"] for m, r, _ in by_entity if m == FLOW_PACKETS.name}
    assert of_agent == {"retina-otel"}

    def ends_on_points(values: dict[tuple[Any, ...], int]) -> dict[tuple[Any, ...], int]:
        return {
            (m, own | {pair for pair in resource if pair[0] in POD_KEYS}): value
            for (m, resource, own), value in values.items()
        }

    assert ends_on_points(by_entity) == ends_on_points(by_flat)

    for line in of_node.lines():
        refs = [
            tuple(ref["type"] for ref in one["resource"].get("entityRefs", ()))
            for one in line["resourceMetrics"]
        ]
        assert refs[0] == ("service.instance",)
        assert set(refs[1:]) <= {("k8s.pod",)}


def test_what_the_file_exporter_writes_is_what_the_collector_writes(collector):
    resource = {"service.name": "retina-otel", "k8s.node.uid": "n", "k8s.node.name": "node-1"}
    pods = [dict.fromkeys(POD_KEYS, f"pod-{number}") for number in range(3)]
    blocks = [
        point_block(INTERFACE_PACKETS, [Point(7, pod, own={"n": 1}) for pod in (*pods, {})]),
        point_block(INTERFACE_UP, [Point(1, pod) for pod in reversed(pods)]),
        point_block(FLOW_PACKETS, [Point(5, {"source.k8s.pod.uid": "pod-0"})]),
    ]
    options: dict[str, Any] = {"resource_model": ResourceModel.ENTITY, "entity_refs": True}
    (body,) = MetricsEncoder(resource, **options).encode(blocks)

    collector.post("/v1/metrics", body)
    collector.stop()

    (line,) = JsonMetricsEncoder(resource, **options).encode(blocks)
    assert collector.file.read_text() == line.decode()
