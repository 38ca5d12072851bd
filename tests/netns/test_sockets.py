"""Who owns the sockets of the node's own namespace: real processes, sockets and cgroups."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retina_otel.node import sockets
from retina_otel.node.looks import Looks
from retina_otel.node.sockets import REMEMBERED_LOOKS, NodeSockets
from retina_otel.receivers.flows.ownership import halves
from retina_otel.testing.lab import GATEWAY4, NODE4, NODE6, Lab
from tests.netns import cgroups_in_lab as cgroups

HOLDER = """
import json, socket, sys, time
held = []
for kind, family, address, port, options, peer in json.loads(sys.argv[1]):
    one = socket.socket(getattr(socket, family), getattr(socket, kind))
    for level, name, value in options:
        one.setsockopt(getattr(socket, level), getattr(socket, name), value)
    one.bind((address, port))
    if peer:
        one.connect(tuple(peer))
    elif kind == "SOCK_STREAM":
        one.listen()
    held.append(one)
print(json.dumps([one.getsockname()[1] for one in held]), flush=True)
time.sleep(3600)
"""
TCP, UDP = 6, 17
REUSE = ["SOL_SOCKET", "SO_REUSEPORT", 1]
ONLY6 = ["IPPROTO_IPV6", "IPV6_V6ONLY", 1]


def one(
    kind: str, address: str, port: int, *options: list[Any], peer: tuple[str, int] | None = None
) -> list[Any]:
    family = "AF_INET6" if ":" in address else "AF_INET"
    return [kind, family, address, port, list(options), peer]


class World:
    """The lab's node, workloads with sockets in its namespace, and a clock."""

    def __init__(self, lab: Lab, hierarchy: cgroups.Hierarchy, looks: Looks) -> None:
        self.lab = lab
        self.hierarchy = hierarchy
        self.now_ns = 0
        self.sockets = NodeSockets(looks, lambda: self.now_ns)

    def hold(self, group: Path | None, *sockets: list[Any]) -> tuple[Any, list[int]]:
        argv = [sys.executable, "-c", HOLDER, json.dumps(sockets)]
        process, line = cgroups.start(self.lab.node, group, argv)
        return process, json.loads(line)

    def pod(self) -> tuple[str, Path]:
        uid, container = cgroups.new_uid(), cgroups.new_container_id()
        return uid, self.hierarchy.make(cgroups.cgroupfs(uid, container))

    def owners(self, *ends: tuple[int, str, int]) -> list[str]:
        """The pod of each (protocol, address, port), "" for none; a second later than before."""
        self.now_ns += 1_000_000_000
        protocol, addresses, port = zip(*ends, strict=True)
        hi, lo = halves(addresses)
        found = self.lab.node.call(
            lambda: self.sockets.owners(
                np.array(protocol, np.uint8), hi, lo, np.array(port, np.uint16)
            )
        )
        assert self.sockets.unavailable == ""
        return [self.name(index) for index in found.tolist()]

    def name(self, index: int) -> str:
        if index < 0:
            return ""
        (uid,) = [name for name in self.sockets.workloads[index] if len(name) == 36]
        return uid


@pytest.fixture(params=[1, 2], ids=["cgroup1", "cgroup2"])
def world(lab: Lab, request: pytest.FixtureRequest) -> Iterator[World]:
    looks = Looks()
    with cgroups.hierarchy(request.param) as hierarchy:
        yield World(lab, hierarchy, looks)
        lab.node.stop_processes()
    looks.close()


@pytest.mark.kernels
def test_an_end_belongs_to_the_pod_whose_process_holds_its_socket(world):
    (a, in_a), (b, in_b) = world.pod(), world.pod()
    world.hold(
        in_a,
        one("SOCK_STREAM", NODE4, 9100),
        one("SOCK_STREAM", NODE6, 9100),
        one("SOCK_DGRAM", NODE4, 53),
    )
    world.hold(in_b, one("SOCK_STREAM", GATEWAY4, 9100), one("SOCK_DGRAM", NODE6, 53))
    world.hold(None, one("SOCK_STREAM", NODE4, 22))

    assert world.owners(
        (TCP, NODE4, 9100),
        (TCP, NODE6, 9100),
        (UDP, NODE4, 53),
        (TCP, GATEWAY4, 9100),
        (UDP, NODE6, 53),
        (TCP, NODE4, 22),
        (UDP, NODE4, 9100),
        (TCP, NODE4, 9101),
        (1, NODE4, 9100),
    ) == [a, a, a, b, b, "", "", "", ""]


def test_a_wildcard_listener_answers_for_every_address_but_those_of_others(world):
    (a, in_a), (b, in_b) = world.pod(), world.pod()
    world.hold(
        in_a,
        one("SOCK_STREAM", "0.0.0.0", 80, REUSE),
        one("SOCK_DGRAM", "::", 4789),
        one("SOCK_STREAM", "::", 81, ONLY6),
    )
    world.hold(in_b, one("SOCK_STREAM", "::", 82), one("SOCK_DGRAM", "::1", 83))

    assert world.owners(
        *((TCP, address, 80) for address in (NODE4, GATEWAY4, NODE6)),
        *((UDP, address, 4789) for address in (NODE4, NODE6)),
        *((TCP, address, 81) for address in (NODE4, NODE6)),
        *((TCP, address, 82) for address in (NODE4, NODE6)),
        *((UDP, address, 83) for address in ("::1", NODE6, NODE4)),
    ) == [a, a, "", a, a, "", a, b, b, b, "", ""]


def test_a_connection_belongs_to_who_opened_it(world):
    (a, in_a), (b, in_b) = world.pod(), world.pod()
    world.hold(in_a, one("SOCK_STREAM", NODE4, 8080))
    _, (port,) = world.hold(in_b, one("SOCK_STREAM", NODE4, 0, peer=(NODE4, 8080)))

    assert world.owners((TCP, NODE4, 8080), (TCP, NODE4, port)) == [a, b]


def test_a_port_that_two_owners_share_is_nobodys(world):
    (a, in_a), (_b, in_b) = world.pod(), world.pod()
    shared = one("SOCK_STREAM", NODE4, 443, REUSE)
    world.hold(in_a, shared, one("SOCK_STREAM", NODE4, 444, REUSE))
    world.hold(in_a, one("SOCK_STREAM", NODE4, 444, REUSE))
    world.hold(in_b, shared)
    world.hold(in_a, one("SOCK_DGRAM", NODE4, 500, REUSE))
    world.hold(None, one("SOCK_DGRAM", NODE4, 500, REUSE))

    assert world.owners((TCP, NODE4, 443), (TCP, NODE4, 444), (UDP, NODE4, 500)) == ["", a, ""]


def test_containers_of_one_pod_are_one_owner(world):
    uid = cgroups.new_uid()
    ids = [cgroups.new_container_id() for _ in range(2)]
    for container in ids:
        group = world.hierarchy.make(cgroups.systemd(uid, container))
        world.hold(group, one("SOCK_DGRAM", NODE4, 500, REUSE))

    assert world.owners((UDP, NODE4, 500)) == [uid]
    assert {uid, *ids} in list(world.sockets.workloads)


def test_a_closed_socket_still_answers_for_a_while(world):
    a, in_a = world.pod()
    process, _ = world.hold(in_a, one("SOCK_DGRAM", NODE4, 53))
    assert world.owners((UDP, NODE4, 53)) == [a]
    process.kill()
    process.wait()
    for _ in range(REMEMBERED_LOOKS):
        assert world.owners((UDP, NODE4, 53)) == [a]
    assert world.owners((UDP, NODE4, 53)) == [""]


def test_workloads_are_those_that_had_sockets_here_lately(world, monkeypatch):
    """Pods come and go for as long as the agent runs."""
    monkeypatch.setattr(sockets, "MAX_OWNERS", 2)
    (a, in_a), (b, in_b), (c, in_c), (d, in_d) = (world.pod() for _ in range(4))
    world.hold(in_d)
    for group, port in ((in_a, 53), (in_b, 54)):
        process, _ = world.hold(group, one("SOCK_DGRAM", NODE4, port))
        assert world.owners((UDP, NODE4, 53), (UDP, NODE4, 54)) == (
            [a, ""] if port == 53 else [a, b]
        )
    process.kill()
    process.wait()
    world.hold(in_c, one("SOCK_DGRAM", NODE4, 55))
    ends = [(UDP, NODE4, port) for port in (53, 54, 55)]
    for _ in range(REMEMBERED_LOOKS):
        assert world.owners(*ends) == [a, b, c]
    for _ in range(2):
        assert world.owners(*ends) == [a, "", c]
    assert [{d} & names for names in world.sockets.workloads] == [set(), set()]


BRIEF = """
import json, socket, sys
address, first, count = sys.argv[1:]
for port in range(int(first), int(first) + int(count)):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as one:
            one.bind((address, port))
            # The datagram goes nowhere; the connection is refused.
            try:
                one.connect((address, 9))
            except ConnectionRefusedError:
                pass
print("done")
"""


@pytest.mark.kernels
def test_sockets_that_came_and_went_between_two_looks_are_known(world):
    """Also when their process is gone, and its cgroup with it."""
    (a, in_a), (b, in_b) = world.pod(), world.pod()
    ends = [(kind, NODE4, port) for port in range(20000, 20100) for kind in (UDP, TCP)]
    ends6 = [(kind, NODE6, port) for port in range(20050, 20150) for kind in (UDP, TCP)]
    assert world.owners(*ends, *ends6) == [""] * 400
    for group, address, first in ((in_a, NODE4, 20000), (in_b, NODE6, 20050), (None, NODE4, 30000)):
        argv = [sys.executable, "-c", BRIEF, address, str(first), "100"]
        process, said = cgroups.start(world.lab.node, group, argv)
        assert said == "done"
        process.wait()
    in_a.rmdir()

    assert world.owners(*ends, *ends6, (TCP, NODE4, 30000)) == [a] * 200 + [b] * 200 + [""]


MANY = """
import socket
for last in range(1, 9):
    for port in range(1024, 6024):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((f"127.0.0.{last}", port))
print("done")
"""
ROOM = 32768


def test_closed_sockets_for_which_there_is_no_room_are_counted(world):
    a, in_a = world.pod()
    world.lab.node.ip("link set lo up")
    assert world.owners((UDP, "127.0.0.1", 1024)) == [""]
    process, _ = cgroups.start(world.lab.node, in_a, [sys.executable, "-c", MANY])
    process.wait()

    ends = [(UDP, f"127.0.0.{last}", port) for last in range(1, 9) for port in range(1024, 6024)]
    assert world.owners(*ends) == [a] * ROOM + [""] * (len(ends) - ROOM)
    lost = world.sockets.ledger.report().beside["without_room"]
    assert lost == len(ends) - ROOM


DESCRIPTORS = """
import os, sys, time
held = [os.dup(0) for _ in range(4_096)]
with os.scandir("/proc/self/fd") as entries:
    each = sum(1 for _ in entries) - 1
children = int(sys.argv[1])
if all(os.fork() for _ in range(children)):
    print(each, flush=True)
time.sleep(3600)
"""


def test_a_look_at_descriptors_is_bounded_and_what_is_left_out_is_counted(world):
    argv = [sys.executable, "-c", DESCRIPTORS, "64"]
    _, each = cgroups.start(world.lab.node, None, argv)
    assert world.owners((UDP, NODE4, 53)) == [""]
    assert world.sockets.ledger.report().beside["without_room"] == 65 * int(each) - 262_144


def test_a_port_that_two_owners_had_one_after_the_other_is_nobodys(world):
    (_, in_a), (_, in_b) = world.pod(), world.pod()
    assert world.owners((UDP, NODE4, 20000)) == [""]
    for group in (in_a, in_b):
        argv = [sys.executable, "-c", BRIEF, NODE4, "20000", "1"]
        cgroups.start(world.lab.node, group, argv)[0].wait()

    assert world.owners((UDP, NODE4, 20000)) == [""]


def test_a_port_that_goes_to_another_owner_is_nobodys_until_the_first_is_forgotten(world):
    (a, in_a), (b, in_b) = world.pod(), world.pod()
    process, _ = world.hold(in_a, one("SOCK_DGRAM", NODE4, 53))
    assert world.owners((UDP, NODE4, 53)) == [a]
    process.kill()
    process.wait()
    world.hold(in_b, one("SOCK_DGRAM", NODE4, 53))

    for _ in range(REMEMBERED_LOOKS):
        assert world.owners((UDP, NODE4, 53)) == [""]
    assert world.owners((UDP, NODE4, 53)) == [b]


def test_sockets_of_other_namespaces_say_nothing(world):
    _, group = world.pod()
    argv = [sys.executable, "-c", HOLDER, json.dumps([one("SOCK_DGRAM", "0.0.0.0", 53)])]
    pod = world.lab.pod("web")
    cgroups.start(pod, group, argv)

    assert world.owners((UDP, NODE4, 53)) == [""]
    pod.stop_processes()


def test_raw_sockets_own_nothing(world):
    _, group = world.pod()
    script = HOLDER.replace("getattr(socket, kind))", f"socket.SOCK_RAW, {socket.IPPROTO_UDP})")
    argv = [sys.executable, "-c", script, json.dumps([one("SOCK_RAW", NODE4, 17)])]
    cgroups.start(world.lab.node, group, argv)

    assert world.owners((UDP, NODE4, 17)) == [""]
