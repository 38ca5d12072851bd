"""The agent in the lab's node is killed while its backend is away: its events come all the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from retina_otel.delivery.spool.segments import SegmentReader
from retina_otel.model.signals import DROP_EVENT, EVENT_PACKETS
from retina_otel.testing.backends import Collector
from retina_otel.testing.lab import Lab
from retina_otel.testing.otlp_data import records_of
from tests.e2e.agent import Agent, wait_until
from tests.e2e.shop import DROPS, blocked_port, lose, shop

CONFIG = """
extensions:
  static_identity: {{path: {identity}, check_interval: 200ms}}
receivers:
  drops: {{}}
processors:
  identity: {{}}
exporters:
  {exporter}:
    endpoint: {endpoint}
    compression: gzip
    interval: 1s
    events_interval: 200ms
    retry_on_failure: {{max_interval: 1s}}
    spool: {{directory: {spool}}}
service:
  interval: 500ms
  extensions: [static_identity]
  pipelines:
    logs:
      receivers: [drops]
      processors: [identity]
      exporters: [{exporter}]
      attributes: {{{drops}}}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with shop() as made:
        yield made


def on_disk(spool: Path, port: int) -> int:
    """Dropped packets in all events of a spool whose data are plain or gzip."""
    packets = 0
    for path in spool.glob("*.segment"):
        reader = SegmentReader(path, b"otlp-logs")
        for head in reader.heads():
            request = reader.request(head)
            body = zlib.decompress(request.data, 31) if request.encoding else request.data
            for record in records_of([ExportLogsServiceRequest.FromString(body)]):
                if record.attributes.get("destination.port") == port:
                    packets += record.attributes[EVENT_PACKETS.name]
        reader.close()
    return packets


def arrived(collector: Collector, port: int) -> int:
    """The same, of what the Collector wrote."""
    found = (dict(attributes) for name, attributes in collector.events() if name == DROP_EVENT.name)
    return sum(one[EVENT_PACKETS.name] for one in found if one.get("destination.port") == port)


@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_events_of_a_killed_agent_arrive_once_its_backend_and_another_agent_are_there(
    lab: Lab, tmp_path: Path, exporter: str
) -> None:
    port, spool = blocked_port(lab), tmp_path / "spool"
    collector = Collector("first-light", tmp_path, namespace=lab.node)
    config = tmp_path / "agent.yaml"
    config.write_text(
        CONFIG.format(
            identity=lab.write_identity(tmp_path / "identity.yaml"),
            exporter=exporter,
            endpoint=collector.endpoint
            if exporter == "otlp_http"
            else f"http://{collector.grpc_endpoint}",
            spool=spool,
            drops=DROPS,
        )
    )
    agent = Agent(lab.node, config)
    try:
        agent.start()
        lost = lose(lab, 101)
        wait_until(lambda: on_disk(spool, port) == lost, f"{lost} packets on the disk")
        agent.kill()
        with collector:
            agent.start()
            wait_until(lambda: arrived(collector, port) == lost, f"{lost} packets at the Collector")
            lost += lose(lab, 211)
            assert agent.stop() == 0
            collector.stop()
            assert arrived(collector, port) == lost
    finally:
        agent.stop()
        print(agent.log())
    assert list(spool.glob("*.segment")) == []
