"""`classic: true` on a real node: the page has Retina's metrics, and their sums are the lab's.

The truths are the senders' tallies, and for node-level metrics the interfaces' own counters.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_otel.model.classic import CLASSIC, PREFIX
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS
from retina_otel.testing.lab import WORLD4, Lab
from retina_otel.testing.scrape import Sample, fetch, samples
from tests.e2e.agent import Agent, wait_until
from tests.e2e.shop import Truth, lose, shop, talk

PORT = 10093
CONFIG = """
extensions:
  static_identity: {{path: {identity}, check_interval: 200ms}}
receivers:
  flows: {{}}
  drops: {{}}
  interfaces: {{}}
processors:
  identity: {{}}
exporters:
  prometheus: {{endpoint: "127.0.0.1:{port}", classic: {classic}}}
service:
  interval: 250ms
  telemetry: {{metrics: {{enabled: false}}}}
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops, interfaces]
      processors: [identity]
      exporters: [prometheus]
"""
FORWARD = (
    ("forward_count", "system_network_packet_count_total"),
    ("forward_bytes", "system_network_io_bytes_total"),
)
Shown = tuple[str, frozenset[tuple[str, str]]]
END_LABELS = ("ip", "namespace", "podname", "workload_kind", "workload_name")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with shop() as made:
        yield made


def start(lab: Lab, folder: Path, *, classic: bool) -> Agent:
    config = folder / "agent.yaml"
    identity = lab.write_identity(folder / "identity.yaml")
    config.write_text(CONFIG.format(identity=identity, port=PORT, classic=str(classic).lower()))
    agent = Agent(lab.node, config)
    agent.start()
    return agent


def page(lab: Lab) -> list[Sample]:
    return list(samples(fetch(lab.node, "127.0.0.1", PORT)))


def sums(found: list[Sample], name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """Totals of one of Retina's metrics by some of its labels."""
    counted: Counter[tuple[str, ...]] = Counter()
    for one in found:
        if one.name == PREFIX + name:
            counted[tuple(one.labels[label] for label in labels)] += int(one.value)
    return counted


def of_interfaces(found: list[Sample], name: str) -> Counter[tuple[str, ...]]:
    """Totals over all interfaces by direction, as ours has them. That they are right, and that of
    each interface, is shown beside its own counters in tests/netns/test_interfaces.py."""
    counted: Counter[tuple[str, ...]] = Counter()
    directions = {"receive": "ingress", "transmit": "egress"}
    for one in found:
        if one.name == name:
            counted[(directions[one.labels["network_io_direction"]],)] += int(one.value)
    return counted


def forwarded_alike(lab: Lab, name: str, ours: str) -> bool:
    found = page(lab)
    counted = of_interfaces(found, ours)
    return counted[("ingress",)] > 0 and sums(found, name, "direction") == counted


def between_pods(found: list[Sample], name: str) -> Counter[tuple[str, ...]]:
    """By source and destination pod, both known."""
    by_ends = sums(found, name, "source_podname", "destination_podname")
    return Counter({ends: n for ends, n in by_ends.items() if "unknown" not in ends})


def expected(truth: Truth, metric: str) -> Counter[tuple[str, ...]]:
    by_ends: Counter[tuple[str, ...]] = Counter()
    for (name, source, destination, *_), amount in truth.sums.items():
        if name == metric:
            by_ends[source, destination] += amount
    return by_ends


def test_retinas_metrics_have_the_sums_of_the_lab(lab: Lab, tmp_path: Path) -> None:
    truth = Truth()
    agent = start(lab, tmp_path, classic=True)
    try:
        talk(lab, truth, 211)
        lost = lose(lab, 101)
        wanted = expected(truth, FLOW_PACKETS.name)
        wait_until(
            lambda: between_pods(page(lab), "adv_forward_count") == wanted, "the packets sent"
        )
        wait_until(
            lambda: sums(page(lab), "drop_count", "reason")[("IPTABLE_RULE_DROP",)] == lost,
            "the packets dropped",
        )
        for name, ours in FORWARD:
            wait_until(functools.partial(forwarded_alike, lab, name, ours), "a page of one tick")
        found = page(lab)
    finally:
        agent.stop()

    assert between_pods(found, "adv_forward_bytes") == expected(truth, FLOW_IO.name)
    labels = ("reason", "direction", "source_podname", "source_namespace", "destination_ip")
    dropped = ("IPTABLE_RULE_DROP", "INGRESS", "web", "shop", WORLD4)
    assert sums(found, "adv_drop_count", *labels)[dropped] == lost
    # Of each connection there is one SYN and one SYN-ACK at both of its ends.
    flags = sums(found, "adv_tcpflags_count", "flag", "source_podname")
    assert flags["SYN", "web"] == flags["SYNACK", "api"] == 2
    gauges = sums(found, "tcp_flag_gauges", "direction", "flag")
    assert {gauges[way, flag] for way in ("ingress", "egress") for flag in ("SYN", "SYNACK")} == {1}
    for row in CLASSIC:
        of_ends = [f"{end}_{label}" for end in ("source", "destination") for label in END_LABELS]
        shapes = {frozenset(one.labels) for one in found if one.name == PREFIX + row.name}
        assert shapes <= {frozenset((*row.labels, *(of_ends if row.pod_level else ())))}


def test_ours_have_the_same_names_and_labels_with_and_without_retinas(
    lab: Lab, tmp_path: Path
) -> None:
    without, together = (shown_between_pods(lab, tmp_path, classic) for classic in (False, True))
    assert without
    assert {one for one in together if not one[0].startswith(PREFIX)} == without
    assert not any(name.startswith(PREFIX) for name, _ in without)


def shown_between_pods(lab: Lab, folder: Path, classic: bool) -> set[Shown]:
    """Names and labels of the series between pods, after some traffic."""
    agent = start(lab, folder, classic=classic)
    try:
        truth = Truth()
        talk(lab, truth, 53)
        sent = sum(n for key, n in truth.sums.items() if key[0] == FLOW_PACKETS.name)
        wait_until(lambda: ours_counted(page(lab)) == sent, "the packets sent")
        return {
            (one.name, frozenset(one.labels.items()))
            for one in page(lab)
            if {"source_k8s_pod_name", "destination_k8s_pod_name"} <= one.labels.keys()
        }
    finally:
        agent.stop()


def ours_counted(found: list[Sample]) -> int:
    return sum(
        int(one.value)
        for one in found
        if one.name == "retina_flow_packets_total"
        and {"source_k8s_pod_name", "destination_k8s_pod_name"} <= one.labels.keys()
    )
