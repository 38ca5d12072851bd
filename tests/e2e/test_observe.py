"""`retina-otel observe` and `pods` against a running agent: what is shown is what was sent."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab
from retina_otel.testing.servers import UdpServer
from tests.e2e.agent import COMMAND, Agent, wait_until

CONFIG = """
extensions:
  static_identity: {{path: {folder}/identity.yaml}}
receivers:
  flows: {{events: interval}}
  drops: {{}}
processors:
  identity: {{}}
exporters:
  observe: {{socket: {folder}/run/observe.sock, flush_interval: 100ms, capacity: 1000}}
service:
  interval: 200ms
  extensions: [static_identity]
  pipelines:
    logs: {{receivers: [flows, drops], processors: [identity], exporters: [observe]}}
"""
SENT, REFUSED = 1009, 211


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("shop/web", "shop/api", "other/db") as made:
        yield made


@pytest.fixture
def agent(lab: Lab, tmp_path: Path) -> Iterator[Agent]:
    lab.write_identity(tmp_path / "identity.yaml")
    config = tmp_path / "agent.yaml"
    config.write_text(CONFIG.format(folder=tmp_path))
    instance = Agent(lab.node, config)
    instance.start()
    yield instance
    assert instance.stop() == 0


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments, "--socket", str(folder / "run" / "observe.sock")],
        capture_output=True,
        text=True,
        timeout=30,
    )


def records(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run(folder, "observe", "-o", "json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def packets(found: list[dict[str, Any]], direction: str = "") -> int:
    return sum(
        record["attributes"]["retina.event.packets"]
        for record in found
        if direction in ("", record["attributes"].get("network.interface.direction"))
    )


@pytest.fixture
def seen(lab: Lab, agent: Agent, tmp_path: Path) -> Path:
    """The folder of an agent that has seen web send to api, and to db, where nobody listens."""
    web, api, db = lab.pod("web"), lab.pod("api"), lab.pod("db")
    with UdpServer(api, api.ipv4, 9):
        traffic.udp(web, (api.ipv4, 9), packets=SENT)
    traffic.udp(web, (db.ipv4, 7), packets=REFUSED, connected=False)
    wait_until(
        lambda: (
            packets(records(tmp_path, "--type", "flow", "--from-pod", "shop/web"), "egress")
            == SENT + REFUSED
        ),
        "every packet that was sent",
    )
    wait_until(
        lambda: (
            packets(records(tmp_path, "--drop-reason", "no_socket", "--from-pod", "shop/web"))
            == REFUSED
        ),
        "every packet that was dropped",
    )
    return tmp_path


def test_each_filter_leaves_exactly_what_was_sent_so(lab: Lab, seen: Path) -> None:
    web, api, db = lab.pod("web"), lab.pod("api"), lab.pod("db")
    to_api = ("--type", "flow", "--protocol", "udp")
    counted = {
        arguments: packets(records(seen, *to_api, *arguments), "egress")
        for arguments in (
            ("--from-pod", "shop/web"),
            ("--from-pod", "shop/we", "--to-pod", "shop/api"),
            ("--from-pod", "web"),
            ("--to-namespace", "other"),
            ("--from-namespace", "other"),
            ("--to-port", "9"),
            ("--port", "7", "--port", "9"),
            ("--from-ip", web.ipv4, "--to-ip", f"{db.ipv4}/32"),
            ("--to-ip", api.ipv4),
            ("--verdict", "dropped"),
            ("--until", "2020-01-01T00:00:00Z"),
            ("--since", "1h"),
        )
    }
    assert list(counted.values()) == [
        SENT + REFUSED, SENT, 0, REFUSED, 0, SENT, SENT + REFUSED, REFUSED, SENT, 0, 0,
        SENT + REFUSED,
    ]  # fmt: skip
    dropped = records(seen, "--verdict", "dropped", "--from-pod", "shop/web")
    assert packets(dropped) == REFUSED
    assert {record["attributes"]["retina.drop.reason"] for record in dropped} == {"no_socket"}


def test_an_event_tells_how_each_end_was_known(seen: Path) -> None:
    of_web = records(seen, "--type", "flow", "--from-pod", "shop/web", "--to-namespace", "shop")
    found = {
        tuple(
            record["attributes"][name]
            for name in (
                "network.interface.direction",
                "retina.source.known_by",
                "retina.destination.known_by",
            )
        )
        for record in of_web
    }
    assert found == {("egress", "interface", "address"), ("ingress", "address", "interface")}


def test_the_last_are_the_newest_and_lines_are_for_people(seen: Path) -> None:
    of_web = ("--from-pod", "shop/web")
    everything = sorted(records(seen, *of_web), key=lambda record: str(record["time"]))
    assert records(seen, *of_web, "--last", "2") == everything[-2:]
    lines = run(seen, "observe", "--verdict", "dropped", "--to-pod", "other/db").stdout.splitlines()
    assert len(lines) == len(records(seen, "--verdict", "dropped", "--to-pod", "other/db"))
    assert all(" -> other/db:7 drop DROPPED (udp no_socket) " in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    table = run(seen, "observe", "-o", "table", "--last", "1").stdout.splitlines()
    assert len(table) == 2
    assert table[0].split()[:3] == ["TIME", "NODE", "SOURCE"]


def test_who_follows_gets_what_comes_and_ends_with_the_agent(
    lab: Lab, agent: Agent, tmp_path: Path
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    socket = str(tmp_path / "run" / "observe.sock")
    with subprocess.Popen(
        [COMMAND, "observe", "--follow", "-o", "json", "--to-port", "9", "--socket", socket],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        with UdpServer(api, api.ipv4, 9):
            traffic.udp(web, (api.ipv4, 9), packets=SENT)
        assert follower.stdout is not None
        first = follower.stdout.readline()
        assert agent.stop() == 0
        # Not communicate(): it passes by what is already in this side's buffer.
        rest = follower.stdout.read()
        follower.wait(30)
    found = [json.loads(line) for line in (first + rest).splitlines()]
    assert (packets(found, "egress"), packets(found, "ingress")) == (SENT, SENT)
    assert not os.path.exists(socket)


def test_pods_tells_what_is_known_of_an_address_and_how(lab: Lab, seen: Path) -> None:
    db = lab.pod("db")
    (found,) = map(json.loads, run(seen, "pods", db.ipv4, "--json").stdout.splitlines())
    assert found["how"] == "interface"
    assert found["interfaces"] == [db.host_ifindex]
    assert found["attributes"]["k8s.pod.name"] == "db"
    every = run(seen, "pods", "--json").stdout.splitlines()
    names = {json.loads(line)["attributes"]["k8s.pod.name"] for line in every}
    assert names == {"web", "api", "db"}
    nobody = run(seen, "pods", "shop/nobody")
    assert (nobody.returncode, nobody.stderr) == (1, "Nothing is known of shop/nobody.\n")


def test_the_socket_is_for_its_owner_only(agent: Agent, tmp_path: Path) -> None:
    mode = os.stat(tmp_path / "run" / "observe.sock").st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)


def test_a_killed_agents_socket_is_in_nobodys_way(agent: Agent, tmp_path: Path) -> None:
    agent.kill()
    assert run(tmp_path, "observe").returncode == 1
    agent.start()
    assert run(tmp_path, "observe").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["observe", "--ip", "10.0.0"], "'10.0.0' is neither an address nor a network"),
        (["observe", "--port", "http"], "'http' is no port"),
        (["observe", "--verdict", "drop"], "no verdict 'drop'"),
        (["observe", "--type", "flows"], "no event 'flows'"),
        (["observe", "--since", "yesterday"], "--since: 'yesterday' is no time"),
        (["observe"], "no agent answers at"),
        (["pods"], "no agent answers at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {complaint}")
    assert done.stderr.count("\n") == 1
