"""The agent in the lab's node, the Collector beside it: what arrives is what the senders sent.

Sums are compared to the byte with the senders' tallies. The Collector is killed as by a crash, so
what it has acknowledged must be in its file before: the tests wait until its file has caught up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.model.signals import DROP_EVENT, DROP_PACKETS, EVENT_PACKETS, FLOW_IO, FLOW_PACKETS
from retina_otel.testing import traffic
from retina_otel.testing.backends import Collector
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import Agent
from tests.e2e.shop import DROPS, Sums, Truth, blocked_port, lose, shop, talk

ARRIVES_SECONDS = 60
CONFIG = """
extensions:
  static_identity: {{path: {identity}, check_interval: 200ms}}
receivers:
  flows: {{}}
  drops: {{}}
processors:
  identity: {{}}
exporters:
  otlp_http:
    endpoint: {endpoint}
    interval: 1s
    events_interval: 200ms
    retry_on_failure: {{max_interval: 2s}}
service:
  interval: 500ms
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops]
      processors: [identity]
      exporters: [otlp_http]
      attributes: {{{drops}}}
    logs:
      receivers: [drops]
      processors: [identity]
      exporters: [otlp_http]
      attributes: {{{drops}}}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with shop() as made:
        yield made


@pytest.fixture
def collector(lab: Lab, tmp_path: Path) -> Iterator[Collector]:
    with Collector("first-light", tmp_path, namespace=lab.node) as instance:
        yield instance


@pytest.fixture
def identity(lab: Lab, tmp_path: Path) -> Path:
    return lab.write_identity(tmp_path / "identity.yaml")


@pytest.fixture
def agent(lab: Lab, collector: Collector, identity: Path, tmp_path: Path) -> Iterator[Agent]:
    config = tmp_path / "agent.yaml"
    config.write_text(CONFIG.format(identity=identity, endpoint=collector.endpoint, drops=DROPS))
    instance = Agent(lab.node, config)
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()
        print(instance.log())


def final_sums(collector: Collector) -> Sums:
    """The last recorded value of each flow series, between pods."""
    sums: Sums = Counter()
    for (metric, attributes), points in collector.points().items():
        keys = dict(attributes)
        if metric not in (FLOW_IO.name, FLOW_PACKETS.name):
            continue
        source, destination = keys.get("source.k8s.pod.name"), keys.get("destination.k8s.pod.name")
        if source is None or destination is None:
            continue
        values = [int(point["asInt"]) for point in points if "asInt" in point]
        key = (keys["network.transport"], keys["network.interface.direction"])
        sums[metric, source, destination, *key] += values[-1]
    return sums


def dropped_packets(collector: Collector, port: int) -> tuple[int, int]:
    """Packets from web to a port that the firewall dropped: by the metric, and by the events."""
    wanted = {
        ("source.k8s.pod.name", "web"),
        ("destination.port", port),
        ("retina.drop.reason", "netfilter_drop"),
    }
    by_metric = sum(
        int([point["asInt"] for point in points if "asInt" in point][-1])
        for (metric, attributes), points in collector.points().items()
        if metric == DROP_PACKETS.name and wanted <= attributes
    )
    by_events = sum(
        dict(attributes)[EVENT_PACKETS.name]
        for name, attributes in collector.events()
        if name == DROP_EVENT.name and wanted <= attributes
    )
    return by_metric, by_events


def wait_for(read: Callable[[], Any], expected: Any) -> None:
    """Waits until `read()` gives what must come, and says what it gave if that does not."""
    deadline = time.monotonic() + ARRIVES_SECONDS
    while (found := read()) != expected:
        if time.monotonic() > deadline:
            assert found == expected
        time.sleep(0.2)


def test_the_collector_ends_with_the_sums_of_the_lab_to_the_byte(lab, collector, agent):
    truth = Truth()
    talk(lab, truth, 1009)
    lost = lose(lab, 101)

    assert agent.stop() == 0
    collector.stop()

    assert final_sums(collector) == truth.sums
    assert dropped_packets(collector, blocked_port(lab)) == (lost, lost)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("outage_s", [10, 30])
def test_nothing_is_lost_while_the_collector_is_away_and_a_pod_dies(
    lab, collector, agent, identity, outage_s
):
    truth = Truth()
    web, db = lab.pod("web"), lab.pod("db")
    with UdpServer(web, web.ipv4, 5353) as sink:
        talk(lab, truth, 211)
        truth.add(db, web, "udp", traffic.udp(db, sink.to, packets=53))
        lost = lose(lab, 17)
        wait_for(lambda: final_sums(collector), truth.sums)
        wait_for(lambda: dropped_packets(collector, blocked_port(lab)), (lost, lost))

        collector.kill()
        end = time.monotonic() + outage_s
        talk(lab, truth, 101)
        truth.add(db, web, "udp", traffic.udp(db, sink.to, packets=59))
        lab.remove_pod(db)
        lab.write_identity(identity)
        lost += lose(lab, 19)
        time.sleep(max(0.0, end - time.monotonic()))
        collector.start()
        talk(lab, truth, 13)
        lost += lose(lab, 23)
        wait_for(lambda: final_sums(collector), truth.sums)

    assert agent.stop() == 0
    collector.stop()
    assert final_sums(collector) == truth.sums
    assert dropped_packets(collector, blocked_port(lab)) == (lost, lost)
