"""One agent, one run of traffic, every way out at once: each backend ends with the senders' tally.

What Prometheus holds is compared as last raw samples, and as `increase()` where a zero sample
precedes. The agent and the Collector are stopped first, so all they had has been delivered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retina_otel.model.signals import (
    DROP_EVENT,
    EVENT_BYTES,
    EVENT_PACKETS,
    FLOW_EVENT,
    FLOW_IO,
    FLOW_PACKETS,
)
from retina_otel.testing.backends import Collector, Loki, Prometheus, free_ports, running
from retina_otel.testing.lab import Lab
from tests.e2e.agent import Agent, wait_until
from tests.e2e.shop import DROPS, Sums, Truth, blocked_port, lose, shop, talk

NODE, CLUSTER = "node-1", "lab"
CONFIG = """
extensions:
  static_identity: {{path: {identity}}}
receivers:
  flows: {{events: interval}}
  drops: {{}}
processors:
  identity: {{}}
exporters:
  otlp_grpc: {{endpoint: "http://{collector}", interval: 1s, events_interval: 200ms}}
  otlp_http/prometheus: {{endpoint: {otlp}, interval: 1s}}
  otlp_http/loki: {{endpoint: {loki}, events_interval: 200ms}}
  prometheus_remote_write/1: {{endpoint: {first}, protocol: "1.0", interval: 1s}}
  prometheus_remote_write/2: {{endpoint: {second}, protocol: "2.0", interval: 1s}}
  prometheus: {{endpoint: "{scrape}"}}
service:
  interval: 500ms
  telemetry: {{resource: {{k8s.node.name: {node}, k8s.cluster.name: {cluster}}}}}
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops]
      processors: [identity]
      exporters: [otlp_grpc, otlp_http/prometheus, prometheus,
                  prometheus_remote_write/1, prometheus_remote_write/2]
      attributes: {{{drops}}}
    logs:
      receivers: [flows, drops]
      processors: [identity]
      exporters: [otlp_grpc, otlp_http/loki]
      attributes:
        {drops}
        retina.flow: [source.k8s.pod.name, destination.k8s.pod.name, network.transport,
                      network.interface.direction, retina.event.*]
"""
METRICS = {
    "retina_flow_io_bytes_total": FLOW_IO.name,
    "retina_flow_packets_total": FLOW_PACKETS.name,
}
DROPPED = 'retina_drop_packets_total{{source_k8s_pod_name="web",destination_port="{port}"}}'

Samples = list[tuple[dict[str, str], float]]


@dataclass(frozen=True)
class Chain:
    """All that ran, after the senders, the agent and the Collector have ended."""

    truth: Sums
    lost: int
    port: int
    prometheus: Mapping[str, Prometheus]
    """By the way in which the samples came."""
    loki: Loki
    collector: Collector


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    def folder(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    with shop() as lab:
        (port,) = free_ports(1)
        scrape = f"127.0.0.1:{port}"
        node = {"namespace": lab.node}
        by_collector = Prometheus(folder("collector"), otlp=False, **node)
        by_otlp = Prometheus(folder("otlp"), remote_write=False, **node)
        by_write_1 = Prometheus(folder("write-1"), otlp=False, **node)
        by_write_2 = Prometheus(folder("write-2"), otlp=False, **node)
        by_scrape = Prometheus(
            folder("scrape"),
            remote_write=False,
            otlp=False,
            scrape=[job(scrape)],
            arguments=["--enable-feature=created-timestamp-zero-ingestion"],
            **node,
        )
        loki = Loki(folder("loki"), **node)
        collector = Collector(
            ["first-light", "gateway-prometheus-remote-write", "gateway-loki"],
            folder("gateway"),
            {
                "PROMETHEUS_REMOTE_WRITE_URL": by_collector.remote_write_url,
                "LOKI_OTLP_URL": loki.otlp_url,
            },
            lab.node,
        )
        config = folder("agent") / "agent.yaml"
        config.write_text(
            CONFIG.format(
                identity=lab.write_identity(config.with_name("identity.yaml")),
                collector=collector.grpc_endpoint,
                otlp=by_otlp.otlp_url,
                loki=loki.otlp_url,
                first=by_write_1.remote_write_url,
                second=by_write_2.remote_write_url,
                scrape=scrape,
                node=NODE,
                cluster=CLUSTER,
                drops=DROPS,
            )
        )
        agent = Agent(lab.node, config)
        ways = {
            "collector": by_collector,
            "otlp": by_otlp,
            "remote write 1": by_write_1,
            "remote write 2": by_write_2,
            "scrape": by_scrape,
        }
        with running(collector, *ways.values(), loki):
            try:
                agent.start()
                truth, lost = traffic(lab)
                wait_until(
                    lambda: (
                        sums_of(by_scrape.last) == truth
                        and total(by_scrape, blocked_port(lab)) == lost
                    ),
                    "a scrape of the whole truth",
                )
                assert agent.stop() == 0
                chain = Chain(truth, lost, blocked_port(lab), ways, loki, collector)
                # A queue on disk is not emptied by a stop.
                wait_until(
                    lambda: (
                        event_sums(in_loki(chain, FLOW_EVENT.name)) == truth
                        and dropped(in_loki(chain, DROP_EVENT.name), chain.port) == lost
                    ),
                    "all events in Loki",
                )
                collector.stop()
                yield chain
            finally:
                agent.stop()
                print(agent.log())


def job(target: str) -> dict[str, Any]:
    """A scrape that says where its target runs, as relabeling does in a cluster."""
    labels = {"k8s_node_name": NODE, "k8s_cluster_name": CLUSTER}
    return {"job_name": "agents", "static_configs": [{"targets": [target], "labels": labels}]}


def traffic(lab: Lab) -> tuple[Sums, int]:
    truth = Truth()
    talk(lab, truth, 211)
    lost = lose(lab, 53)
    return truth.sums, lost


def sums_of(read: Callable[[str], Samples]) -> Sums:
    """Bytes and packets between pods, of what `read` finds for each metric."""
    sums: Sums = Counter()
    for name, metric in METRICS.items():
        for labels, value in read(name):
            ends = labels.get("source_k8s_pod_name"), labels.get("destination_k8s_pod_name")
            if all(ends):
                key = (labels["network_transport"], labels["network_interface_direction"])
                sums[metric, *ends, *key] += int(value)
    return sums


def total(prometheus: Prometheus, port: int) -> int:
    return sum(int(value) for _, value in prometheus.last(DROPPED.format(port=port)))


def event_sums(events: list[dict[str, Any]]) -> Sums:
    """Bytes and packets of flow events between pods."""
    sums: Sums = Counter()
    for event in events:
        ends = event.get("source.k8s.pod.name"), event.get("destination.k8s.pod.name")
        if all(ends):
            key = (*ends, event["network.transport"], event["network.interface.direction"])
            sums[FLOW_PACKETS.name, *key] += int(event[EVENT_PACKETS.name])
            sums[FLOW_IO.name, *key] += int(event[EVENT_BYTES.name])
    return sums


def dropped(events: list[dict[str, Any]], port: int) -> int:
    return sum(
        int(event[EVENT_PACKETS.name])
        for event in events
        if event.get("source.k8s.pod.name") == "web" and str(event["destination.port"]) == str(port)
    )


def in_file(chain: Chain, name: str) -> list[dict[str, Any]]:
    return [dict(found) for event, found in chain.collector.events() if event == name]


def in_loki(chain: Chain, name: str) -> list[dict[str, Any]]:
    return lines(chain.loki, f"| event_name=`{name}`")


def in_loki_without_a_collector(chain: Chain, name: str) -> list[dict[str, Any]]:
    of_drops = name == DROP_EVENT.name
    lost = "!=" if of_drops else "="
    return lines(chain.loki, f"| event_name=`` | retina_drop_reason{lost}``")


def lines(loki: Loki, chosen: str) -> list[dict[str, Any]]:
    """Attributes of the chosen events."""
    # Loki writes labels with underscores; ours have none of their own.
    return [
        {key.replace("_", "."): value for key, value in entry.labels.items()}
        for entry in loki.query(f'{{service_name="retina-otel"}} {chosen}')
    ]


WAYS = pytest.mark.parametrize(
    "way", ["collector", "otlp", "remote write 1", "remote write 2", "scrape"]
)


@WAYS
def test_the_last_samples_in_prometheus_are_the_tally_of_the_senders(chain, way):
    prometheus = chain.prometheus[way]
    assert sums_of(prometheus.last) == chain.truth
    assert total(prometheus, chain.port) == chain.lost


@WAYS
def test_increase_is_the_tally_because_every_series_begins_at_zero(chain, way):
    prometheus = chain.prometheus[way]

    def increases(name: str) -> Samples:
        # At the time of a series' last sample nothing is extrapolated: it begins at zero.
        ends = {series.times_ms[-1] for series in prometheus.samples(name)}
        return [
            found
            for end in ends
            for found in prometheus.query(
                f"increase({name}[1h]) and timestamp({name}) == {end / 1000!r}", end / 1000
            )
        ]

    assert sums_of(increases) == chain.truth


@WAYS
def test_each_series_says_which_node_and_cluster_it_is_of(chain, way):
    series = chain.prometheus[way].series(*METRICS, "retina_drop_packets_total")
    keys = ("k8s_node_name", "k8s_cluster_name")
    assert {tuple(labels.get(key) for key in keys) for labels in series} == {(NODE, CLUSTER)}


@WAYS
def test_every_way_makes_the_same_series(chain, way):
    # A scrape has names of its own for who was scraped; Prometheus leaves out scopes by OTLP.
    other = {"job", "instance"} if way == "scrape" else set()
    other |= {"otel_scope_name", "otel_scope_version"} if way == "otlp" else set()

    def series(of: str) -> set[frozenset[tuple[str, str]]]:
        return {
            frozenset(pair for pair in labels.items() if pair[0] not in other)
            for labels in chain.prometheus[of].series(*METRICS, DROPPED.format(port=chain.port))
        }

    assert series(way) == series("collector")


@pytest.mark.parametrize("read", [in_file, in_loki, in_loki_without_a_collector])
def test_events_tell_the_tally_of_the_senders(chain, read):
    assert event_sums(read(chain, FLOW_EVENT.name)) == chain.truth
    assert dropped(read(chain, DROP_EVENT.name), chain.port) == chain.lost
