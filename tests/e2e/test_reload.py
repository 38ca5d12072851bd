"""SIGHUP in a running agent: what has not changed goes on untouched, and no packet falls between
the old configuration and the new one."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.model.signals import FLOW_PACKETS
from retina_otel.testing import traffic
from retina_otel.testing.backends.collector import attributes_of
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import Agent, wait_until

NO_RECORDED_VALUE = 1
CONFIG = """
extensions:
  static_identity: {{path: {folder}/identity.yaml}}
receivers:
  flows: {{}}
  drops: {{}}
processors:
  identity: {{}}
exporters:
  file: {{path: {folder}/otlp.jsonl, interval: 100ms}}
service:
  interval: 100ms
  extensions: [static_identity]
  pipelines:
    metrics:
      receivers: [flows, drops]
      processors: [identity]
      exporters: [file]
      attributes: {{{attributes}}}
"""
BY_POD = f"{FLOW_PACKETS.name}: [source.k8s.pod.name, network.interface.direction]"
BY_PORT = f"{FLOW_PACKETS.name}: [source.k8s.pod.name, network.interface.direction, network.type]"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("shop/web", "shop/api") as made:
        yield made


def configure(folder: Path, attributes: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(CONFIG.format(folder=folder, attributes=attributes))
    return path


def links(pid: int) -> dict[str, str]:
    """What the process has attached, by descriptor."""
    found = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        # Other descriptors come and go while they are listed; that of a link stays.
        with contextlib.suppress(FileNotFoundError):
            text = entry.read_text()
            if "link_id:" in text:
                found[entry.name] = text
    return found


Points = dict[frozenset[tuple[str, Any]], list[dict[str, Any]]]


def points(folder: Path) -> Points:
    """Of the packets that web sent, by attributes, in the order in which they were written."""
    found: Points = defaultdict(list)
    for line in (folder / "otlp.jsonl").read_text().splitlines():
        for resource in json.loads(line).get("resourceMetrics", ()):
            for scope in resource["scopeMetrics"]:
                for metric in scope["metrics"]:
                    if metric["name"] != FLOW_PACKETS.name:
                        continue
                    for point in metric["sum"]["dataPoints"]:
                        found[attributes_of(point["attributes"])].append(point)
    wanted = {("source.k8s.pod.name", "web"), ("network.interface.direction", "egress")}
    return {attributes: rows for attributes, rows in found.items() if wanted <= attributes}


def test_a_changed_projection_ends_its_series_and_loses_no_packet(lab: Lab, tmp_path: Path) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    lab.write_identity(tmp_path / "identity.yaml")
    agent = Agent(lab.node, configure(tmp_path, BY_POD))
    agent.start()
    attached = links(agent.process.pid)
    with UdpServer(api, api.ipv4, 9):
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        configure(tmp_path, BY_PORT)
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "runs the configuration read from" in agent.log(), "a reload")
        traffic.udp(web, (api.ipv4, 9), packets=211)
        assert links(agent.process.pid) == attached
        # And back: the same attributes as at first, on series that begin after those had ended.
        configure(tmp_path, BY_POD)
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: agent.log().count("runs the configuration") == 2, "another reload")
        traffic.udp(web, (api.ipv4, 9), packets=101)
    assert links(agent.process.pid) == attached
    assert agent.stop() == 0

    found = points(tmp_path)
    (by_pod,) = (rows for attributes, rows in found.items() if len(attributes) == 2)
    (by_type,) = (rows for attributes, rows in found.items() if len(attributes) == 3)
    lives = {int(point["startTimeUnixNano"]): point for point in by_pod if "asInt" in point}
    assert [int(point["asInt"]) for _, point in sorted(lives.items())] == [1009, 101]
    assert [int(point["asInt"]) for point in by_type if "asInt" in point][-1] == 211
    # Each that has ended says so, last and once; the one that runs till the end does not.
    assert [point.get("flags", 0) for point in by_type].count(NO_RECORDED_VALUE) == 1
    assert by_type[-1]["flags"] == NO_RECORDED_VALUE
    assert [point.get("flags", 0) for point in by_pod].count(NO_RECORDED_VALUE) == 1
    for rows in (by_pod, by_type):
        times = [int(point["timeUnixNano"]) for point in rows]
        assert times == sorted(times)


def test_a_changed_receiver_takes_only_its_own_links_with_it(lab: Lab, tmp_path: Path) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    lab.write_identity(tmp_path / "identity.yaml")
    config = configure(tmp_path, BY_POD)
    agent = Agent(lab.node, config)
    agent.start()
    attached = set(links(agent.process.pid).values())
    with UdpServer(api, api.ipv4, 9):
        traffic.udp(web, (api.ipv4, 9), packets=1009)
        config.write_text(config.read_text().replace("drops: {}", "drops: {max_entries: 4096}"))
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "runs the configuration read from" in agent.log(), "a reload")
        traffic.udp(web, (api.ipv4, 9), packets=211)
        after = set(links(agent.process.pid).values())
    assert agent.stop() == 0
    assert (len(attached), len(after), len(attached & after)) == (7, 7, 6)
    (rows,) = points(tmp_path).values()
    assert [int(point["asInt"]) for point in rows if "asInt" in point][-1] == 1220
    assert all(point.get("flags", 0) != NO_RECORDED_VALUE for point in rows)
