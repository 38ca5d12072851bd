"""lab -> agent -> Application Insights, which refuses, resets and takes parts meanwhile: its deltas
add up to the senders' tally, and each item has every attribute that the agent's own file has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.model.signals import (
    DROP_EVENT,
    EVENT_PACKETS,
    FLOW_IO,
    FLOW_PACKETS,
    INTERFACE_PACKETS,
)
from retina_otel.testing.application_insights import Answer, ApplicationInsights
from retina_otel.testing.otlp import ReceivedPoint, ReceivedRecord, points_of, records_of
from tests.e2e.agent import Agent, wait_until
from tests.e2e.shop import DROPS, Sums, Truth, blocked_port, lose, shop, talk

CONFIG = """
extensions:
  static_identity: {{path: {identity}}}
receivers:
  flows: {{events: interval}}
  drops: {{}}
  interfaces: {{}}
processors:
  identity: {{}}
exporters:
  azure_monitor:
    connection_string: {connection_string}
    interval: 500ms
    events_interval: 200ms
    max_request_items: 25
    retry_on_failure: {{initial_interval: 20ms, max_interval: 50ms}}
  file: {{path: {file}, interval: 500ms}}
service:
  interval: 500ms
  telemetry: {{resource: {{k8s.node.name: node-1, k8s.cluster.name: lab}}}}
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops, interfaces]
      processors: [identity]
      exporters: [azure_monitor, file]
      attributes: {{{drops}}}
    logs:
      receivers: [flows, drops]
      processors: [identity]
      exporters: [azure_monitor, file]
"""
MISHAPS = (
    Answer(503),
    Answer(206, errors={0: 500, 3: 429}),
    Answer(reset=True),
    Answer(429, retry_after="0"),
    Answer(206, errors={1: 503}),
    Answer(439, retry_after="0"),
    Answer(401),
)
Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Chain:
    truth: Sums
    lost: int
    port: int
    azure: ApplicationInsights
    points: list[ReceivedPoint]
    """What the agent wrote to its file."""
    records: list[ReceivedRecord]
    log: str


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("azure")
    with shop() as lab, ApplicationInsights(namespace=lab.node) as azure:
        azure.script(*MISHAPS)
        config = folder / "agent.yaml"
        config.write_text(
            CONFIG.format(
                identity=lab.write_identity(folder / "identity.yaml"),
                connection_string=azure.connection_string,
                file=folder / "otlp.jsonl",
                drops=DROPS,
            )
        )
        agent = Agent(lab.node, config)
        agent.start()
        try:
            truth = Truth()
            talk(lab, truth, 97)
            lost = lose(lab, 31)
            azure.script(*MISHAPS)
            talk(lab, truth, 50)
            wait_until(
                lambda: sums_of(azure) == truth.sums and dropped(azure) == lost,
                "the whole truth in Azure",
            )
            assert agent.stop() == 0
            points, records = written(folder / "otlp.jsonl")
            yield Chain(truth.sums, lost, blocked_port(lab), azure, points, records, agent.log())
        finally:
            agent.stop()
            print(agent.log())


def written(path: Path) -> tuple[list[ReceivedPoint], list[ReceivedRecord]]:
    metrics, logs = [], []
    for line in path.read_text().splitlines():
        content = json.loads(line)
        if "resourceMetrics" in content:
            metrics.append(json_format.ParseDict(content, ExportMetricsServiceRequest()))
        else:
            logs.append(json_format.ParseDict(content, ExportLogsServiceRequest()))
    return list(points_of(metrics)), list(records_of(logs))


def sums_of(azure: ApplicationInsights) -> Sums:
    sums: Sums = Counter()
    for metric in (FLOW_IO.name, FLOW_PACKETS.name):
        for pairs, value in azure.sums(metric).items():
            found = dict(pairs)
            ends = found.get("source.k8s.pod.name"), found.get("destination.k8s.pod.name")
            if all(ends):
                key = (found["network.transport"], found["network.interface.direction"])
                sums[metric, *ends, *key] += int(value)
    return sums


def dropped(azure: ApplicationInsights) -> int:
    return sum(
        int(event[EVENT_PACKETS.name])
        for event in azure.events(DROP_EVENT.name)
        if event.get("source.k8s.pod.name") == "web"
    )


def flat(resource: dict[str, Any], attributes: dict[str, Any]) -> Pairs:
    return frozenset((key, str(value)) for key, value in {**resource, **attributes}.items())


def test_deltas_add_up_to_the_tally_of_the_senders(chain):
    assert sums_of(chain.azure) == chain.truth


def test_drop_events_tell_the_tally_of_the_senders(chain):
    assert dropped(chain.azure) == chain.lost


def test_every_mishap_has_happened_and_nothing_wrong_was_sent(chain):
    answers = [request.answer for request in chain.azure.received]
    assert [a for a in answers if a != Answer()] == [*MISHAPS, *MISHAPS]
    assert chain.azure.faults() == []
    assert chain.azure.key not in chain.log


def test_each_series_has_all_attributes_and_the_sum_that_the_agents_file_has(chain):
    """Two-ended and pod-level metrics, the agent's resource with them."""
    sums = {
        (point.metric, flat(point.resource, point.attributes)): point.value
        for point in chain.points
        if point.monotonic and not point.no_value and point.value
    }
    names = {metric for metric, _ in sums}
    assert {FLOW_IO.name, INTERFACE_PACKETS.name} <= names
    assert {
        (metric, pairs): total
        for metric in names
        for pairs, total in chain.azure.sums(metric).items()
    } == sums
    of_pods = [dict(pairs) for metric, pairs in sums if metric == INTERFACE_PACKETS.name]
    assert {"web", "api"} <= {pairs.get("k8s.pod.name") for pairs in of_pods}
    assert {pairs["k8s.cluster.name"] for pairs in of_pods} == {"lab"}


def test_each_event_has_all_attributes_its_body_and_its_severity(chain):
    expected = Counter(
        (
            record.event,
            flat(
                record.resource,
                record.attributes
                | {"body": record.body, "severity_number": record.severity}
                | {"logger_name": record.scope},
            ),
        )
        for record in chain.records
    )
    assert (
        Counter(
            (base["name"], frozenset(base["properties"].items()))
            for base in (e["data"]["baseData"] for e in chain.azure.envelopes("EventData"))
        )
        == expected
    )


def test_items_are_of_the_node(chain):
    tags = {
        (envelope["tags"]["ai.cloud.role"], envelope["tags"]["ai.cloud.roleInstance"])
        for envelope in chain.azure.envelopes()
    }
    assert tags == {("retina-otel", "node-1")}
