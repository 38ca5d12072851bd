"""`RETINA_OTEL_SEMCONV_PREVIEW=true`: the draft's names on every way out, and the lab's sums."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.model.preview import METRICS, PREVIEW_SCHEMA_URL
from retina_otel.model.signals import FLOW_PACKETS, SCHEMA_URL
from retina_otel.testing.lab import Lab
from retina_otel.testing.scrape import fetch, samples
from tests.e2e.agent import Agent, wait_until
from tests.e2e.shop import Truth, shop, talk

PORT = 10093
CONFIG = """
extensions:
  static_identity: {{path: {identity}}}
receivers:
  flows: {{events: end}}
  interfaces: {{}}
processors:
  identity: {{}}
exporters:
  prometheus: {{endpoint: "127.0.0.1:{port}"}}
  file: {{path: {file}, interval: 1s}}
service:
  interval: 250ms
  extensions: [static_identity]
  telemetry: {{metrics: {{enabled: false}}}}
  pipelines:
    metrics:
      receivers: [flows, interfaces]
      processors: [identity]
      exporters: [prometheus, file]
      attributes: {{"retina.flow.*": [source.k8s.pod.name, destination.k8s.pod.name]}}
    logs:
      receivers: [flows]
      processors: [identity]
      exporters: [file]
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with shop() as made:
        yield made


def scraped(lab: Lab) -> dict[str, int]:
    """Packets between pods, by the name of the metric."""
    found: dict[str, int] = {}
    for one in samples(fetch(lab.node, "127.0.0.1", PORT)):
        if {"source_k8s_pod_name", "destination_k8s_pod_name"} <= one.labels.keys():
            found[one.name] = found.get(one.name, 0) + int(one.value)
    return {name: n for name, n in found.items() if name.endswith("flow_packets_total")}


def written(file: Path, signal: str, items: str) -> dict[str, set[str]]:
    """Schema URLs of scopes, by the names of what stands in them."""
    schemas: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        data: dict[str, Any] = json.loads(line)
        for resource in data.get(f"resource{signal}", ()):
            for scope in resource[f"scope{signal}"]:
                for item in scope[items]:
                    name = item.get("name") or item["eventName"]
                    schemas.setdefault(name, set()).add(scope["schemaUrl"])
    return schemas


def test_the_drafts_names_are_told_with_the_drafts_schema(lab: Lab, tmp_path: Path) -> None:
    config, file = tmp_path / "agent.yaml", tmp_path / "out.jsonl"
    identity = lab.write_identity(tmp_path / "identity.yaml")
    config.write_text(CONFIG.format(identity=identity, port=PORT, file=file))
    agent = Agent(lab.node, config, around=("env", "RETINA_OTEL_SEMCONV_PREVIEW=true"))
    agent.start()
    try:
        truth = Truth()
        talk(lab, truth, 101)
        sent = sum(n for key, n in truth.sums.items() if key[0] == FLOW_PACKETS.name)
        wanted = {"network_flow_packets_total": sent}
        wait_until(lambda: scraped(lab) == wanted, "the packets sent")
    finally:
        agent.stop()

    metrics = written(file, "Metrics", "metrics")
    for ours, draft in METRICS.items():
        assert metrics[draft] == {PREVIEW_SCHEMA_URL}
        assert ours not in metrics
    assert metrics["system.network.io"] == {SCHEMA_URL}
    assert written(file, "Logs", "logRecords") == {"retina.flow": {PREVIEW_SCHEMA_URL}}
